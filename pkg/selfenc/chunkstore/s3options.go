package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
)

// S3RequestOptions are options of requests and objects in S3. With the zero value, the settings of
// the bucket apply. SSE-C is not supported: it would send its key to the server with every request,
// so it would not protect anything. Objects are encrypted before they are sent.
type S3RequestOptions struct {
	// Encryption is encryption at the server, in addition to ours: "AES256", "aws:kms" or
	// "aws:kms:dsse". With the last two, KMSKey may be the id, alias or ARN of a key.
	Encryption, KMSKey string
	// RequesterPays means that this account pays for requests, in buckets that require it.
	RequesterPays bool
	// StorageClass is the storage class of new objects. It must allow reading without restoring:
	// "STANDARD_IA", "INTELLIGENT_TIERING", ...
	StorageClass string
	// Tags are the tags of new objects, at most ten, for the filters of lifecycle rules.
	Tags map[string]string
	// Lock is the mode of object lock, "GOVERNANCE" or "COMPLIANCE". After each Put or Replace, an
	// object cannot be deleted for RetainDays, even if Put found it existing. The actual date is up
	// to one day later. With COMPLIANCE, a Put of an object that is locked in mode GOVERNANCE
	// returns ErrLocked, because S3 does not allow to strengthen the lock.
	Lock       string
	RetainDays int
}

// ErrLocked means that an object cannot be deleted or replaced yet.
var ErrLocked = errors.New("object is locked")

// Limits of S3 for the tags of an object, in characters.
const (
	s3TagsMost     = 10
	s3TagKeyMost   = 128
	s3TagValueMost = 256
	maxRetainDays  = 36500 // the limit of S3
)

var storageClassName = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,63}$`)

func (o *S3RequestOptions) check() error {
	kms := o.Encryption == string(types.ServerSideEncryptionAwsKms) || o.Encryption == string(types.ServerSideEncryptionAwsKmsDsse)
	switch {
	case o.Encryption != "" && o.Encryption != string(types.ServerSideEncryptionAes256) && !kms:
		return errors.New("sse must be AES256, aws:kms or aws:kms:dsse")
	case o.KMSKey != "" && !kms:
		return errors.New("sse-kms-key-id requires sse=aws:kms or sse=aws:kms:dsse")
	case o.StorageClass == string(types.StorageClassGlacier) || o.StorageClass == string(types.StorageClassDeepArchive):
		return fmt.Errorf("storage-class %s is not supported: its objects cannot be read before they are restored", o.StorageClass)
	case o.StorageClass != "" && !storageClassName.MatchString(o.StorageClass):
		return errors.New("storage-class is not the name of a storage class")
	case o.Lock != "" && o.Lock != string(types.ObjectLockModeGovernance) && o.Lock != string(types.ObjectLockModeCompliance):
		return errors.New("object-lock must be GOVERNANCE or COMPLIANCE")
	case (o.Lock == "") != (o.RetainDays == 0) || o.RetainDays < 0 || o.RetainDays > maxRetainDays:
		return fmt.Errorf("object-lock and retain-days must be given together; retain-days must be 1 to %d days", maxRetainDays)
	case len(o.Tags) > s3TagsMost:
		return fmt.Errorf("an object can have at most %d tags", s3TagsMost)
	}
	for k, v := range o.Tags {
		if k == "" || utf8.RuneCountInString(k) > s3TagKeyMost || utf8.RuneCountInString(v) > s3TagValueMost || !utf8.ValidString(k) || !utf8.ValidString(v) || strings.HasPrefix(strings.ToLower(k), "aws:") {
			return fmt.Errorf("the key of a tag must have 1 to %d characters and must not begin with aws:, and its value can have up to %d characters", s3TagKeyMost, s3TagValueMost)
		}
	}
	return nil
}

// set sets one parameter of a URL. known is false for other parameters.
func (o *S3RequestOptions) set(name, value string) (known bool, err error) {
	switch name {
	case "sse":
		o.Encryption = value
	case "sse-kms-key-id":
		o.KMSKey = value
	case "request-payer":
		if o.RequesterPays = value == string(types.RequestPayerRequester); !o.RequesterPays {
			err = errors.New("request-payer must be requester")
		}
	case "storage-class":
		o.StorageClass = value
	case "tags":
		o.Tags, err = parseTags(value)
	case "object-lock":
		o.Lock = value
	case "retain-days":
		if o.RetainDays, err = strconv.Atoi(value); err != nil || o.RetainDays <= 0 {
			err = errors.New("retain-days must be a positive number of days")
		}
	default:
		if strings.HasPrefix(name, "sse-c") {
			err = errors.New("SSE-C is not supported: it would send its key to the server with every request; objects are encrypted before they are sent")
		}
		return false, err
	}
	return true, err
}

// parseTags parses "key=value,key=value".
func parseTags(s string) (map[string]string, error) {
	tags := map[string]string{}
	for t := range strings.SplitSeq(s, ",") {
		k, v, ok := strings.Cut(t, "=")
		if _, twice := tags[k]; !ok || twice {
			return nil, errors.New("tags must have the form key=value,key=value, with each key once")
		}
		tags[k] = v
	}
	return tags, nil
}

func (o *S3RequestOptions) payer() types.RequestPayer {
	if o.RequesterPays {
		return types.RequestPayerRequester
	}
	return ""
}

// apply adds the options to a request. lock is false for objects that are not to be locked.
func (o *S3RequestOptions) apply(in *s3.PutObjectInput, lock bool) {
	in.RequestPayer, in.StorageClass, in.ServerSideEncryption = o.payer(), types.StorageClass(o.StorageClass), types.ServerSideEncryption(o.Encryption)
	if o.KMSKey != "" {
		in.SSEKMSKeyId = aws.String(o.KMSKey)
	}
	if len(o.Tags) > 0 {
		var list []string
		for _, k := range slices.Sorted(maps.Keys(o.Tags)) {
			list = append(list, url.QueryEscape(k)+"="+url.QueryEscape(o.Tags[k]))
		}
		in.Tagging = aws.String(strings.Join(list, "&"))
	}
	if o.Lock != "" && lock {
		in.ObjectLockMode, in.ObjectLockRetainUntilDate = types.ObjectLockMode(o.Lock), aws.Time(o.until())
	}
}

const day = 24 * time.Hour

// until returns the lock date of an object that is stored now. It is one day later than promised,
// so that the date must be renewed at most once a day.
func (o *S3RequestOptions) until() time.Time {
	return time.Now().Add(time.Duration(o.RetainDays+1) * day).UTC().Truncate(time.Second)
}

// retention returns the lock of an object. mode is "" if it is not locked. The error may be
// ErrNotFound.
func (s *S3) retention(ctx context.Context, key string) (mode types.ObjectLockRetentionMode, until time.Time, err error) {
	out, err := s.client.GetObjectRetention(ctx, &s3.GetObjectRetentionInput{Bucket: &s.bucket, Key: s.key(key), RequestPayer: s.opts.payer()})
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorCode() == "NoSuchObjectLockConfiguration" {
		return "", until, nil
	}
	if err != nil || out.Retention == nil {
		return "", until, s.failed(ctx, "read the lock of", key, s.orAbsent(ctx, key, err))
	}
	return out.Retention.Mode, aws.ToTime(out.Retention.RetainUntilDate), nil
}

// mayDelete returns ErrLocked for a locked object. S3 itself would only hide the object behind a
// delete marker, and keep its bytes.
func (s *S3) mayDelete(ctx context.Context, key string) error {
	if s.opts.Lock == "" || s.opts.transient(key) {
		return nil
	}
	mode, until, err := s.retention(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err == nil && mode != "" && until.After(time.Now()) {
		err = objectError("delete", key, fmt.Errorf("%w until %s (%s)", ErrLocked, until.UTC().Format(time.RFC3339), mode))
	}
	return err
}
