package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// Locker is what a store with object lock can do besides. LockerOf returns it.
type Locker interface {
	// LockPeriod returns how long an object cannot be deleted after it was stored, at least. 0 means
	// that the store was opened without object lock. It makes no request to S3.
	LockPeriod(ctx context.Context) (time.Duration, error)
	// LockedUntil returns until when an object cannot be deleted. The zero time means that it can.
	LockedUntil(ctx context.Context, key string) (time.Time, error)
	// Lock makes sure that an object cannot be deleted before the time enough. If that has to be
	// changed, it is locked until the time to, else nothing changes. It returns until when the object
	// is locked. The error is ErrNotFound if there is no such object, and ErrLocked if the lock is of a
	// weaker mode that cannot be changed.
	Lock(ctx context.Context, key string, enough, to time.Time) (until time.Time, extended bool, err error)
}

// hasLocker are stores that pass locks on to another one.
type hasLocker interface{ locker() Locker }

// LockerOf returns the Locker of a store, also of one that passes requests on to another one. It is
// nil if the store knows no object lock.
func LockerOf(s Store) Locker {
	switch t := s.(type) {
	case hasLocker:
		return t.locker()
	case Locker:
		return t
	case Wrapper:
		return LockerOf(t.Unwrap())
	}
	return nil
}

// limitedLocker locks objects for one user.
type limitedLocker struct {
	Locker
	of *limited
}

func (l *limited) locker() Locker {
	if k := LockerOf(l.store); k != nil {
		return &limitedLocker{k, l}
	}
	return nil
}

func (l *limitedLocker) LockedUntil(ctx context.Context, key string) (time.Time, error) {
	k, err := l.of.key(key)
	if err != nil {
		return time.Time{}, err
	}
	return l.Locker.LockedUntil(ctx, k)
}

func (l *limitedLocker) Lock(ctx context.Context, key string, enough, to time.Time) (time.Time, bool, error) {
	k, err := l.of.change("lock", key, anyKey)
	if err != nil {
		return time.Time{}, false, err
	}
	return l.Locker.Lock(ctx, k, enough, to)
}

// LockPeriod implements Locker.
func (s *S3) LockPeriod(context.Context) (time.Duration, error) {
	if s.opts.Lock == "" {
		return 0, nil
	}
	return time.Duration(s.opts.RetainDays) * day, nil
}

// LockedUntil implements Locker.
func (s *S3) LockedUntil(ctx context.Context, key string) (time.Time, error) {
	end, err := s.begin(ctx, key)
	if err != nil {
		return time.Time{}, err
	}
	defer end()
	mode, until, err := s.retention(ctx, key)
	if err == nil && mode == "" {
		until, err = s.unlockedOrAbsent(ctx, key)
	}
	return until, err
}

// unlockedOrAbsent returns the zero time if an object without a lock exists, else ErrNotFound: some
// servers say of a missing object that it is not locked.
func (s *S3) unlockedOrAbsent(ctx context.Context, key string) (time.Time, error) {
	_, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: s.key(key), RequestPayer: s.opts.payer()})
	return time.Time{}, s.failed(ctx, "read the lock of", key, s.orAbsent(ctx, key, err))
}

// Lock implements Locker.
func (s *S3) Lock(ctx context.Context, key string, enough, to time.Time) (time.Time, bool, error) {
	if s.opts.Lock == "" {
		return time.Time{}, false, objectError("lock", key, errors.New("the store was opened without object-lock"))
	}
	return s.extend(ctx, key, enough, to)
}

// keepLocked renews the lock of an existing object, so that it is at least as long and strong as
// that of a new object. If the object was deleted meanwhile, the error is ErrNotFound.
func (s *S3) keepLocked(ctx context.Context, key string) error {
	if s.opts.Lock == "" || s.opts.transient(key) {
		return nil
	}
	_, _, err := s.extend(ctx, key, time.Now().Add(time.Duration(s.opts.RetainDays)*day), s.opts.until())
	return err
}

// extend locks an object until a time, unless it is locked for long enough.
func (s *S3) extend(ctx context.Context, key string, enough, to time.Time) (until time.Time, extended bool, err error) {
	end, err := s.begin(ctx, key)
	if err != nil {
		return until, false, err
	}
	defer end()
	mode, until, err := s.retention(ctx, key)
	if err != nil {
		return until, false, err
	}
	weaker := mode == types.ObjectLockRetentionModeGovernance && s.opts.Lock == string(types.ObjectLockModeCompliance)
	if mode != "" && !weaker && !until.Before(enough) {
		return until, false, nil
	}
	if weaker && until.After(time.Now()) { // otherwise, S3 would return only "access denied"
		return until, false, objectError("lock", key, fmt.Errorf("%w in mode GOVERNANCE until %s, and S3 does not allow to change the mode to COMPLIANCE; use another prefix", ErrLocked, until.UTC().Format(time.RFC3339)))
	}
	if mode != types.ObjectLockRetentionModeCompliance { // COMPLIANCE cannot be weakened
		mode = types.ObjectLockRetentionMode(s.opts.Lock)
	}
	to = to.UTC().Add(time.Second - 1).Truncate(time.Second) // S3 keeps whole seconds
	_, err = s.client.PutObjectRetention(ctx, &s3.PutObjectRetentionInput{Bucket: &s.bucket, Key: s.key(key), RequestPayer: s.opts.payer(), ChecksumAlgorithm: types.ChecksumAlgorithmCrc32c,
		Retention: &types.ObjectLockRetention{Mode: mode, RetainUntilDate: aws.Time(to)}})
	return to, err == nil, s.failed(ctx, "lock", key, s.orAbsent(ctx, key, err))
}

// transient reports whether objects under a key are never locked.
func (o *S3Options) transient(key string) bool { return o.Transient != nil && o.Transient(key) }
