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

// S3Wishes are what the owner of a bucket may want of requests and objects. The zero value wants nothing: the bucket's own settings hold.
// There is no SSE-C: a key that goes to the server with every request protects from nobody, and objects are encrypted before they come here.
type S3Wishes struct {
	// Encryption at the server, beneath ours: "AES256", "aws:kms" or "aws:kms:dsse"; KMSKey with the last two: id, alias or ARN.
	Encryption, KMSKey string
	// RequesterPays lets this account pay where the bucket's owner wants that.
	RequesterPays bool
	// StorageClass of new objects, one that is read without restoring it first: "STANDARD_IA", "INTELLIGENT_TIERING", ...
	StorageClass string
	// Tags of new objects, at most ten, for the filters of the bucket's lifecycle rules.
	Tags map[string]string
	// Lock is the mode of object lock, "GOVERNANCE" or "COMPLIANCE". An object cannot be deleted for RetainDays from each Put or Replace
	// of it on, also a Put that found it there; the date itself is up to a day later. With COMPLIANCE a Put that finds an object locked in mode GOVERNANCE
	// is ErrLocked: S3 does not let that be made firmer.
	Lock       string
	RetainDays int
}

// ErrLocked means that an object may not be deleted or replaced yet.
var ErrLocked = errors.New("object is locked")

// Limits of S3 for the tags of an object, in characters.
const (
	s3TagsMost     = 10
	s3TagKeyMost   = 128
	s3TagValueMost = 256
	maxRetainDays  = 36500 // S3's
)

var storageClassName = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,63}$`)

func (w *S3Wishes) check() error {
	kms := w.Encryption == string(types.ServerSideEncryptionAwsKms) || w.Encryption == string(types.ServerSideEncryptionAwsKmsDsse)
	switch {
	case w.Encryption != "" && w.Encryption != string(types.ServerSideEncryptionAes256) && !kms:
		return errors.New("the server's encryption is AES256, aws:kms or aws:kms:dsse")
	case w.KMSKey != "" && !kms:
		return errors.New("a KMS key needs the encryption aws:kms or aws:kms:dsse")
	case w.StorageClass == string(types.StorageClassGlacier) || w.StorageClass == string(types.StorageClassDeepArchive):
		return fmt.Errorf("objects of the class %s cannot be read before they are restored", w.StorageClass)
	case w.StorageClass != "" && !storageClassName.MatchString(w.StorageClass):
		return errors.New("not the name of a storage class")
	case w.Lock != "" && w.Lock != string(types.ObjectLockModeGovernance) && w.Lock != string(types.ObjectLockModeCompliance):
		return errors.New("the mode of object lock is GOVERNANCE or COMPLIANCE")
	case (w.Lock == "") != (w.RetainDays == 0) || w.RetainDays < 0 || w.RetainDays > maxRetainDays:
		return fmt.Errorf("object lock needs both a mode and 1 to %d days", maxRetainDays)
	case len(w.Tags) > s3TagsMost:
		return fmt.Errorf("an object has at most %d tags", s3TagsMost)
	}
	for k, v := range w.Tags {
		if k == "" || utf8.RuneCountInString(k) > s3TagKeyMost || utf8.RuneCountInString(v) > s3TagValueMost || !utf8.ValidString(k) || !utf8.ValidString(v) || strings.HasPrefix(strings.ToLower(k), "aws:") {
			return fmt.Errorf("a tag's key has 1 to %d characters and does not begin with aws:, its value has up to %d", s3TagKeyMost, s3TagValueMost)
		}
	}
	return nil
}

// wish reads one parameter of a URL; known is false if it is none of these.
func (w *S3Wishes) wish(name, value string) (known bool, err error) {
	switch name {
	case "sse":
		w.Encryption = value
	case "sse-kms-key-id":
		w.KMSKey = value
	case "request-payer":
		if w.RequesterPays = value == string(types.RequestPayerRequester); !w.RequesterPays {
			err = errors.New("request-payer is requester")
		}
	case "storage-class":
		w.StorageClass = value
	case "tags":
		w.Tags, err = parseTags(value)
	case "object-lock":
		w.Lock = value
	case "retain-days":
		if w.RetainDays, err = strconv.Atoi(value); err != nil || w.RetainDays <= 0 {
			err = errors.New("retain-days is a number of days")
		}
	default:
		if strings.HasPrefix(name, "sse-c") {
			err = errors.New("SSE-C is not supported: its key would go to the server with every request, and objects are encrypted before they come there")
		}
		return false, err
	}
	return true, err
}

// parseTags reads "key=value,key=value".
func parseTags(s string) (map[string]string, error) {
	tags := map[string]string{}
	for t := range strings.SplitSeq(s, ",") {
		k, v, ok := strings.Cut(t, "=")
		if _, twice := tags[k]; !ok || twice {
			return nil, errors.New("tags are key=value,key=value, each once")
		}
		tags[k] = v
	}
	return tags, nil
}

func (w *S3Wishes) payer() types.RequestPayer {
	if w.RequesterPays {
		return types.RequestPayerRequester
	}
	return ""
}

// apply puts the wishes into a request.
func (w *S3Wishes) apply(in *s3.PutObjectInput) {
	in.RequestPayer, in.StorageClass, in.ServerSideEncryption = w.payer(), types.StorageClass(w.StorageClass), types.ServerSideEncryption(w.Encryption)
	if w.KMSKey != "" {
		in.SSEKMSKeyId = aws.String(w.KMSKey)
	}
	if len(w.Tags) > 0 {
		var list []string
		for _, k := range slices.Sorted(maps.Keys(w.Tags)) {
			list = append(list, url.QueryEscape(k)+"="+url.QueryEscape(w.Tags[k]))
		}
		in.Tagging = aws.String(strings.Join(list, "&"))
	}
	if w.Lock != "" {
		in.ObjectLockMode, in.ObjectLockRetainUntilDate = types.ObjectLockMode(w.Lock), aws.Time(w.until())
	}
}

const day = 24 * time.Hour

// until is to when an object is locked that is stored now: a day longer than promised, so that its date is set anew once a day at most.
func (w *S3Wishes) until() time.Time {
	return time.Now().Add(time.Duration(w.RetainDays+1) * day).UTC().Truncate(time.Second)
}

// retention returns how an object is locked; mode is "" if it is not. ErrNotFound.
func (s *S3) retention(ctx context.Context, key string) (mode types.ObjectLockRetentionMode, until time.Time, err error) {
	out, err := s.client.GetObjectRetention(ctx, &s3.GetObjectRetentionInput{Bucket: &s.bucket, Key: s.key(key), RequestPayer: s.opts.payer()})
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorCode() == "NoSuchObjectLockConfiguration" {
		return "", until, nil
	}
	if err != nil || out.Retention == nil {
		return "", until, s.failed(ctx, "look at the lock of", key, s.orAbsent(ctx, key, err))
	}
	return out.Retention.Mode, aws.ToTime(out.Retention.RetainUntilDate), nil
}

// keepLocked has an object that was there already be locked as long as a new one, and as firmly. ErrNotFound if it was deleted meanwhile.
func (s *S3) keepLocked(ctx context.Context, key string) error {
	if s.opts.Lock == "" {
		return nil
	}
	end, err := s.begin(ctx, key)
	if err != nil {
		return err
	}
	defer end()
	mode, until, err := s.retention(ctx, key)
	if err != nil {
		return err
	}
	weaker := mode == types.ObjectLockRetentionModeGovernance && s.opts.Lock == string(types.ObjectLockModeCompliance)
	if mode != "" && !weaker && time.Until(until) >= time.Duration(s.opts.RetainDays)*day {
		return nil
	}
	if weaker && until.After(time.Now()) { // else the answer would be that access is denied
		return objectError("lock", key, fmt.Errorf("%w in mode GOVERNANCE until %s, and S3 lets nobody who may not bypass that make it COMPLIANCE", ErrLocked, until.UTC().Format(time.RFC3339)))
	}
	if mode != types.ObjectLockRetentionModeCompliance { // which nobody can weaken
		mode = types.ObjectLockRetentionMode(s.opts.Lock)
	}
	_, err = s.client.PutObjectRetention(ctx, &s3.PutObjectRetentionInput{Bucket: &s.bucket, Key: s.key(key), RequestPayer: s.opts.payer(), ChecksumAlgorithm: types.ChecksumAlgorithmCrc32c,
		Retention: &types.ObjectLockRetention{Mode: mode, RetainUntilDate: aws.Time(s.opts.until())}})
	return s.failed(ctx, "lock", key, err)
}

// mayDelete refuses what is locked. S3 itself only hides it, behind a delete marker, and keeps its bytes.
func (s *S3) mayDelete(ctx context.Context, key string) error {
	if s.opts.Lock == "" {
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
