package chunkstore

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/sealvol/sealvol/pkg/awsclient"
)

// S3 is a store in a bucket of S3 or of a server with the same protocol. Put is conditional if the
// server supports If-None-Match, as S3 does. Otherwise, the last of several puts wins. If a Put is
// repeated because its answer was lost, it reports that the object already existed.
type S3 struct {
	client *s3.Client
	bucket string
	prefix string        // "" or ends in "/"
	places chan struct{} // one for each running request
	opts   S3Options
}

// S3Options are the options of OpenS3. Credentials come from the usual AWS sources: environment,
// shared files, the role of the machine.
type S3Options struct {
	Bucket string
	Prefix string // prefix of all keys, without the "/" that follows it
	Region string // "" means from the environment
	// Endpoint is the URL of a server other than AWS.
	Endpoint string
	// PathStyle puts the bucket into the path instead of the host name.
	PathStyle bool
	// Requests is the maximum number of concurrent requests. 0 means 16.
	Requests int
	// Attempts is the maximum number of attempts if a request fails temporarily, with growing,
	// random pauses. 0 means 8.
	Attempts int
	S3RequestOptions
	// Transient, if set, names objects that are never locked, because they are soon deleted.
	Transient func(key string) bool
	// Retrying, if set, is called once, with the reason, when a request has failed twice and is tried
	// again.
	Retrying func(err error)
	// Upload and Download limit the rate of the connections together. nil means no limit.
	Upload, Download *Pacer
	// Credentials replace those of the usual sources, for tests.
	Credentials aws.CredentialsProvider
	// pageKeys is the number of keys per page of a listing. 0 means the server's default.
	pageKeys int32
	// maxPause limits the pauses. 0 means 20 s.
	maxPause time.Duration
	// maxStall is the maximum time without any transfer in either direction. 0 means one minute.
	maxStall time.Duration
}

const (
	s3Requests = 16
	s3Attempts = 8
	s3MaxPause = 20 * time.Second
	s3MaxStall = time.Minute
)

// OpenS3 opens a bucket. It makes no request.
func OpenS3(ctx context.Context, o S3Options) (*S3, error) {
	if o.Bucket == "" {
		return nil, errors.New("open the store: the bucket is missing")
	}
	prefix := strings.Trim(o.Prefix, "/")
	if prefix != "" {
		if err := CheckKey(prefix); err != nil {
			return nil, fmt.Errorf("open the store: %w", err)
		}
		prefix += "/"
	}
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	if o.Requests == 0 {
		o.Requests = s3Requests
	}
	if o.Attempts == 0 {
		o.Attempts = s3Attempts
	}
	if o.maxPause == 0 {
		o.maxPause = s3MaxPause
	}
	if o.maxStall == 0 {
		o.maxStall = s3MaxStall
	}
	cfg, err := config.LoadDefaultConfig(ctx, s3Config(&o)...)
	if err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	cfg.HTTPClient = awsclient.PlainBody{Client: cfg.HTTPClient}
	client := s3.NewFromConfig(cfg, func(c *s3.Options) {
		c.UsePathStyle = o.PathStyle
		// Ranges never have a checksum, and users do not want a line for each. What is read is verified
		// by its hash or its key.
		c.DisableLogOutputChecksumValidationSkipped = true
		if o.Endpoint != "" {
			c.BaseEndpoint = aws.String(o.Endpoint)
		}
	})
	return &S3{client: client, bucket: o.Bucket, prefix: prefix, places: make(chan struct{}, o.Requests), opts: o}, nil
}

func s3Config(o *S3Options) []func(*config.LoadOptions) error {
	var once sync.Once
	told := func(err error) { once.Do(func() { o.Retrying(err) }) }
	list := []func(*config.LoadOptions) error{
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			t.MaxIdleConnsPerHost = o.Requests
			dial := t.DialContext
			t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := dial(ctx, network, address)
				if err != nil {
					return nil, err
				}
				return newMovingConn(c, o.maxStall, o.Upload, o.Download)
			}
		})),
		config.WithRetryer(func() aws.Retryer {
			r := retry.NewStandard(func(s *retry.StandardOptions) {
				s.MaxAttempts = o.Attempts
				s.Backoff = retry.NewExponentialJitterBackoff(o.maxPause)
				s.RateLimiter = ratelimit.None // the pauses grow; a token bucket would end the whole job
			})
			// S3 returns it for one of two concurrent conditional puts of a key, and versitygw if a
			// directory was created or removed meanwhile.
			again := retry.AddWithErrorCodes(r, "ConditionalRequestConflict", "OperationAborted", "ExistingObjectIsDirectory")
			if o.Retrying == nil {
				return again
			}
			return &tellingRetryer{again, told}
		}),
	}
	if o.Region != "" {
		list = append(list, config.WithRegion(o.Region))
	}
	if o.Credentials != nil {
		list = append(list, config.WithCredentialsProvider(o.Credentials))
	}
	return list
}

// begin waits until another request may start. The caller calls end after it.
func (s *S3) begin(ctx context.Context, key string) (end func(), err error) {
	if err := ready(ctx, key); err != nil {
		return nil, err
	}
	select {
	case s.places <- struct{}{}:
		return func() { <-s.places }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (s *S3) key(key string) *string { return aws.String(s.prefix + key) }

// failed translates err to an error of this package.
func (s *S3) failed(ctx context.Context, op, key string, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return objectError(op, key, cause)
	}
	var api smithy.APIError
	if errors.As(err, &api) {
		switch {
		case api.ErrorCode() == "NoSuchKey" || api.ErrorCode() == "NotFound":
			err = ErrNotFound
		case api.ErrorCode() == "AccessDenied" && strings.Contains(api.ErrorMessage(), "object lock"):
			err = fmt.Errorf("%w: %w", ErrLocked, err)
		case api.ErrorCode() == "AccessDenied" || api.ErrorCode() == "Forbidden":
			err = fmt.Errorf("%w: %w", ErrDenied, err)
		case api.ErrorCode() == "NoSuchBucket":
			err = fmt.Errorf("%w: %w", ErrNoBucket, err)
		case api.ErrorCode() == "SignatureDoesNotMatch" || api.ErrorCode() == "InvalidAccessKeyId":
			err = fmt.Errorf("%w: %w", ErrCredentials, err)
		}
	} else if strings.Contains(err.Error(), "get credentials: ") { // the SDK has no type for it
		err = fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	return objectError(op, key, err)
}

// orAbsent returns ErrNotFound if err hides that the object does not exist, and err otherwise. For
// a missing object, S3 returns "access denied" to users who may not list the whole bucket, even if
// they may list below a prefix.
func (s *S3) orAbsent(ctx context.Context, key string, err error) error {
	var api smithy.APIError
	if !errors.As(err, &api) || api.ErrorCode() != "AccessDenied" && api.ErrorCode() != "Forbidden" {
		return err
	}
	out, lerr := s.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: s.key(key), MaxKeys: aws.Int32(1), RequestPayer: s.opts.payer()})
	if lerr != nil || len(out.Contents) > 0 && aws.ToString(out.Contents[0].Key) == *s.key(key) { // it comes before all keys that begin with it
		return err
	}
	return ErrNotFound
}

// Get implements Store. If an answer breaks off, it reads the object again.
func (s *S3) Get(ctx context.Context, key string, room []byte, limit int) ([]byte, error) {
	end, err := s.begin(ctx, key)
	if err != nil {
		return nil, err
	}
	defer end()
	var b []byte
	err = s.repeat(ctx, "get", key, func() (broken bool, err error) {
		b, broken, err = s.get(ctx, key, room, limit)
		return broken, err
	})
	return b, err
}

// repeat reads an object again as long as its answers break off.
func (s *S3) repeat(ctx context.Context, op, key string, read func() (broken bool, err error)) error {
	for attempt := 1; ; attempt++ {
		broken, err := read()
		if err == nil || !broken || attempt >= s.opts.Attempts {
			return s.failed(ctx, op, key, err)
		}
		if err := s.pause(ctx, attempt); err != nil {
			return s.failed(ctx, op, key, err)
		}
	}
}

// get makes one request. broken is true if the answer broke off.
func (s *S3) get(ctx context.Context, key string, room []byte, limit int) (b []byte, broken bool, err error) {
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.bucket, Key: s.key(key), ChecksumMode: types.ChecksumModeEnabled, RequestPayer: s.opts.payer()})
	if err != nil {
		return nil, false, s.orAbsent(ctx, key, err)
	}
	defer func() { _ = out.Body.Close() }()
	length := aws.ToInt64(out.ContentLength)
	if out.ContentLength == nil || length < 0 {
		return nil, false, errors.New("the server did not return the length")
	}
	if length > int64(limit) {
		return nil, false, fmt.Errorf("%w: %d bytes", ErrTooLarge, length)
	}
	b = inRoom(room, length)
	if _, err := io.ReadFull(out.Body, b); err != nil {
		return nil, true, fmt.Errorf("the answer broke off: %w", err)
	}
	// The SDK verifies the checksum at the end.
	if n, err := io.ReadFull(out.Body, make([]byte, 1)); n != 0 || err != io.EOF {
		return nil, true, fmt.Errorf("the answer is incomplete: %w", err)
	}
	return b, false, nil
}

// pause waits for a random time, which grows with each attempt.
func (s *S3) pause(ctx context.Context, attempt int) error {
	most := min(s.opts.maxPause, 100*time.Millisecond<<min(attempt, 20))
	t := time.NewTimer(rand.N(most) + 1)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Put implements Store. If an existing object is deleted before its lock is renewed, it is stored
// again.
func (s *S3) Put(ctx context.Context, key string, data []byte) (bool, error) {
	for attempt := 1; ; attempt++ {
		err := s.put(ctx, "put", key, data, aws.String("*"))
		var api smithy.APIError
		exists := errors.As(err, &api) && api.ErrorCode() == "PreconditionFailed"
		if errors.Is(err, ErrLocked) { // some servers check the lock first
			_, serr := s.Stat(ctx, key)
			exists = serr == nil
		}
		if !exists {
			return err == nil, err
		}
		if err = s.keepLocked(ctx, key); !errors.Is(err, ErrNotFound) || attempt >= s.opts.Attempts {
			return false, err
		}
	}
}

// Replace implements Store.
func (s *S3) Replace(ctx context.Context, key string, data []byte) error {
	return s.put(ctx, "replace", key, data, nil)
}

func (s *S3) put(ctx context.Context, op, key string, data []byte, ifNoneMatch *string) error {
	end, err := s.begin(ctx, key)
	if err != nil {
		return err
	}
	defer end()
	body := &lentBytes{r: bytes.NewReader(data)}
	defer body.giveBack()
	in := &s3.PutObjectInput{Bucket: &s.bucket, Key: s.key(key), Body: body, ContentLength: aws.Int64(int64(len(data))),
		IfNoneMatch: ifNoneMatch, ContentType: aws.String("application/octet-stream")}
	if sum, ok := NamedHash(key); ok { // the name is the checksum, so it need not be computed again
		in.ChecksumSHA256 = aws.String(base64.StdEncoding.EncodeToString(sum[:]))
	} else {
		in.ChecksumAlgorithm = types.ChecksumAlgorithmCrc32c
	}
	s.opts.apply(in, !s.opts.transient(key))
	_, err = s.client.PutObject(ctx, in)
	return s.failed(ctx, op, key, err)
}

// lentBytes is a request body that can be revoked. The HTTP transport may continue to read a body
// after its request has failed. After giveBack, it no longer reads the caller's bytes.
type lentBytes struct {
	mu sync.Mutex
	r  *bytes.Reader // guarded by mu; nil after giveBack
}

var errGivenBack = errors.New("the request has ended")

func (l *lentBytes) Read(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.r == nil {
		return 0, errGivenBack
	}
	return l.r.Read(b)
}

func (l *lentBytes) Seek(off int64, whence int) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.r == nil {
		return 0, errGivenBack
	}
	return l.r.Seek(off, whence)
}

func (l *lentBytes) giveBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.r = nil
}

// Stat implements Store.
func (s *S3) Stat(ctx context.Context, key string) (Info, error) {
	end, err := s.begin(ctx, key)
	if err != nil {
		return Info{}, err
	}
	defer end()
	in := &s3.HeadObjectInput{Bucket: &s.bucket, Key: s.key(key), RequestPayer: s.opts.payer()}
	if _, ok := NamedHash(key); ok { // only in this case: with SSE-KMS, it requires kms:Decrypt
		in.ChecksumMode = types.ChecksumModeEnabled
	}
	out, err := s.client.HeadObject(ctx, in)
	if err != nil {
		return Info{}, s.failed(ctx, "stat", key, s.orAbsent(ctx, key, err))
	}
	info := Info{Key: key, Bytes: aws.ToInt64(out.ContentLength), Modified: aws.ToTime(out.LastModified)}
	if sum, err := base64.StdEncoding.DecodeString(aws.ToString(out.ChecksumSHA256)); err == nil && len(sum) == 32 {
		info.SHA256 = (*[32]byte)(sum)
	}
	return info, nil
}

// Delete implements Store.
func (s *S3) Delete(ctx context.Context, key string) error {
	end, err := s.begin(ctx, key)
	if err != nil {
		return err
	}
	defer end()
	if err := s.mayDelete(ctx, key); err != nil {
		return err
	}
	_, err = s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: s.key(key), RequestPayer: s.opts.payer()})
	if err = s.failed(ctx, "delete", key, err); errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// List implements Store. It skips objects in the bucket whose keys are invalid for a store.
func (s *S3) List(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := checkList(prefix, after); err != nil {
			yield(Info{}, err)
			return
		}
		in := &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: s.key(prefix), RequestPayer: s.opts.payer()}
		if after != "" {
			in.StartAfter = s.key(after)
		}
		pages := s3.NewListObjectsV2Paginator(s.client, in, func(o *s3.ListObjectsV2PaginatorOptions) { o.Limit = s.opts.pageKeys })
		for pages.HasMorePages() {
			page, err := s.page(ctx, pages)
			if err != nil {
				yield(Info{}, s.failed(ctx, "list", prefix, err))
				return
			}
			for i := range page.Contents {
				o := &page.Contents[i]
				key := strings.TrimPrefix(aws.ToString(o.Key), s.prefix)
				if key > after && CheckKey(key) == nil && !yield(Info{Key: key, Bytes: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified)}, nil) {
					return
				}
			}
		}
	}
}

// page counts as a running request only for one page.
func (s *S3) page(ctx context.Context, pages *s3.ListObjectsV2Paginator) (*s3.ListObjectsV2Output, error) {
	end, err := s.begin(ctx, "page")
	if err != nil {
		return nil, err
	}
	defer end()
	return pages.NextPage(ctx)
}

// Close implements Store.
func (s *S3) Close() error { return nil }

// String returns the bucket and the prefix.
func (s *S3) String() string { return "s3://" + path.Join(s.bucket, s.prefix) }
