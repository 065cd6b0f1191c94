package storerpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
)

// lock answers a request about locks.
func (s *server) lock(ctx context.Context, r *request, body []byte) (out []byte, flags uint8, err error) {
	l := chunkstore.LockerOf(s.store)
	if r.key == "" {
		period := time.Duration(0)
		if l != nil {
			period, err = l.LockPeriod(ctx)
		}
		return binary.LittleEndian.AppendUint64(nil, uint64(period)), 0, err
	}
	if l == nil || len(body) != lockBytes {
		return nil, 0, fmt.Errorf("lock %s: the store knows no object lock", r.key)
	}
	var until time.Time
	if enough := timeIn(body); enough.IsZero() {
		until, err = l.LockedUntil(ctx, r.key)
	} else {
		var extended bool
		if until, extended, err = l.Lock(ctx, r.key, enough, timeIn(body[8:])); extended {
			flags = flagExtended
		}
	}
	return appendTime(nil, until), flags, err
}

// LockPeriod implements chunkstore.Locker.
func (c *Client) LockPeriod(ctx context.Context) (time.Duration, error) {
	a, b, err := c.do(ctx, &request{op: opLock}, nil, lockedBytes)
	if err == nil {
		err = failure(&a, b)
	}
	if err == nil && len(b) != lockedBytes {
		err = fmt.Errorf("%w: a lock period of %d bytes", ErrProtocol, len(b))
	}
	if err != nil {
		return 0, fmt.Errorf("ask for the lock period: %w", err)
	}
	period := binary.LittleEndian.Uint64(b)
	if period > math.MaxInt64 {
		return 0, fmt.Errorf("ask for the lock period: %w: %d", ErrProtocol, period)
	}
	return time.Duration(period), nil
}

// LockedUntil implements chunkstore.Locker.
func (c *Client) LockedUntil(ctx context.Context, key string) (time.Time, error) {
	until, _, err := c.lock(ctx, "read the lock of", key, time.Time{}, time.Time{})
	return until, err
}

// Lock implements chunkstore.Locker.
func (c *Client) Lock(ctx context.Context, key string, enough, to time.Time) (until time.Time, extended bool, err error) {
	if enough.IsZero() || enough.UnixNano() == 0 {
		return until, false, errors.New("lock " + key + ": for no time")
	}
	return c.lock(ctx, "lock", key, enough, to)
}

func (c *Client) lock(ctx context.Context, name, key string, enough, to time.Time) (until time.Time, extended bool, err error) {
	a, b, err := c.call(ctx, name, &request{op: opLock, key: key}, appendTime(appendTime(nil, enough), to), lockedBytes)
	if err == nil && len(b) != lockedBytes {
		err = fmt.Errorf("%s %s: %w: a time of %d bytes", name, key, ErrProtocol, len(b))
	}
	if err != nil {
		return until, false, err
	}
	return timeIn(b), a.flags&flagExtended != 0, nil
}

var _ chunkstore.Locker = (*Client)(nil)
