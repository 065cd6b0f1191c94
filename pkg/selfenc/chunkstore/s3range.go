package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
)

// GetRange implements Store. If an answer breaks off, it reads the range again.
func (s *S3) GetRange(ctx context.Context, key string, off int64, dst []byte) error {
	end, err := s.begin(ctx, key)
	if err != nil {
		return err
	}
	defer end()
	if off < 0 || off > math.MaxInt64-int64(len(dst)) { // its end could not be expressed
		return objectError("get", key, rangeError(off, len(dst), -1))
	}
	return s.repeat(ctx, "get", key, func() (broken bool, err error) { return s.getRange(ctx, key, off, dst) })
}

// getRange makes one request. broken is true if the answer broke off.
func (s *S3) getRange(ctx context.Context, key string, off int64, dst []byte) (broken bool, err error) {
	if len(dst) == 0 { // an HTTP header cannot express an empty range
		info, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: s.key(key), RequestPayer: s.opts.payer()})
		if err != nil {
			return false, s.orAbsent(ctx, key, err)
		}
		if n := aws.ToInt64(info.ContentLength); off > n {
			return false, rangeError(off, 0, n)
		}
		return false, nil
	}
	wanted := fmt.Sprintf("bytes=%d-%d", off, off+int64(len(dst))-1)
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.bucket, Key: s.key(key), Range: &wanted, RequestPayer: s.opts.payer()})
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorCode() == "InvalidRange" {
		return false, rangeError(off, len(dst), -1)
	}
	if err != nil {
		return false, s.orAbsent(ctx, key, err)
	}
	defer func() { _ = out.Body.Close() }()
	if got := aws.ToString(out.ContentRange); !strings.HasPrefix(got, fmt.Sprintf("bytes %d-", off)) {
		return false, fmt.Errorf("the server returned the range %.40[2]q instead of %[1]s", wanted, got)
	}
	if n := aws.ToInt64(out.ContentLength); n != int64(len(dst)) {
		return false, rangeError(off, len(dst), off+n)
	}
	if _, err := io.ReadFull(out.Body, dst); err != nil {
		return true, fmt.Errorf("the answer broke off: %w", err)
	}
	return false, nil
}
