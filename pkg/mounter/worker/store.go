package worker

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"sync"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore/storerpc"
)

// StorePatience is how long a worker waits for a new connection to its store.
const StorePatience = 10 * time.Minute

// ErrNoStore is the error of operations when no connection to the store has come in time.
var ErrNoStore = errors.New("no connection to the store")

// errAttachedLate refuses a connection after Close.
var errAttachedLate = errors.New("the job has ended")

// Store is a store behind a connection that may be replaced. An operation whose connection ends is
// repeated on the next one. That is right for all operations: they may be repeated on any store,
// since answers get lost there, too. In particular, a Put that had succeeded returns false then, as
// if the object had existed.
type Store struct {
	patience time.Duration
	opts     storerpc.ClientOptions

	mu      sync.Mutex
	client  *storerpc.Client // nil: none
	changed chan struct{}    // closed when client changes, and then replaced
	since   time.Time        // when the last connection ended
	closed  bool
}

// NewStore returns a Store without a connection.
func NewStore(patience time.Duration, o storerpc.ClientOptions) *Store {
	return &Store{patience: patience, opts: o, changed: make(chan struct{}), since: time.Now()}
}

// Attach makes conn the connection, and owns it. An earlier one is closed.
func (s *Store) Attach(conn net.Conn) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		conn.Close()
		return errAttachedLate
	}
	old := s.client
	c := storerpc.NewClient(conn, s.opts)
	s.set(c)
	s.mu.Unlock()
	if old != nil {
		_ = old.Close() // its operations are repeated on the new one
	}
	go func() {
		<-c.Ended()
		s.lost(c)
	}()
	return nil
}

// set changes the connection. The caller holds mu.
func (s *Store) set(c *storerpc.Client) {
	s.client = c
	close(s.changed)
	s.changed = make(chan struct{})
}

// lost notes that a connection has ended.
func (s *Store) lost(c *storerpc.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == c {
		s.since = time.Now()
		s.set(nil)
	}
}

// Connected tells whether there is a connection.
func (s *Store) Connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client != nil
}

// Close implements chunkstore.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	c := s.client
	s.closed = true
	s.set(nil)
	s.mu.Unlock()
	if c == nil {
		return nil
	}
	return c.Close()
}

// current returns the connection, and waits for one.
func (s *Store) current(ctx context.Context) (*storerpc.Client, error) {
	for {
		s.mu.Lock()
		c, changed, left, closed := s.client, s.changed, s.patience-time.Since(s.since), s.closed
		s.mu.Unlock()
		if closed {
			return nil, storerpc.ErrClosed
		}
		if c != nil {
			return c, nil
		}
		t := time.NewTimer(left)
		select {
		case <-changed:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return nil, context.Cause(ctx)
		case <-t.C:
			return nil, fmt.Errorf("%w for %v: start the snapshot again to continue it", ErrNoStore, s.patience)
		}
	}
}

// do runs an operation, on another connection if one ends.
func (s *Store) do(ctx context.Context, op func(*storerpc.Client) error) error {
	for {
		c, err := s.current(ctx)
		if err != nil {
			return err
		}
		if err = op(c); err == nil || ctx.Err() != nil || c.Err() == nil {
			return err
		}
		s.lost(c)
	}
}

// Get implements chunkstore.Store.
func (s *Store) Get(ctx context.Context, key string, room []byte, limit int) (b []byte, err error) {
	err = s.do(ctx, func(c *storerpc.Client) error {
		b, err = c.Get(ctx, key, room, limit)
		return err
	})
	return b, err
}

// GetRange implements chunkstore.Store.
func (s *Store) GetRange(ctx context.Context, key string, off int64, dst []byte) error {
	return s.do(ctx, func(c *storerpc.Client) error { return c.GetRange(ctx, key, off, dst) })
}

// Put implements chunkstore.Store.
func (s *Store) Put(ctx context.Context, key string, data []byte) (created bool, err error) {
	err = s.do(ctx, func(c *storerpc.Client) error {
		created, err = c.Put(ctx, key, data)
		return err
	})
	return created, err
}

// Replace implements chunkstore.Store.
func (s *Store) Replace(ctx context.Context, key string, data []byte) error {
	return s.do(ctx, func(c *storerpc.Client) error { return c.Replace(ctx, key, data) })
}

// Stat implements chunkstore.Store.
func (s *Store) Stat(ctx context.Context, key string) (i chunkstore.Info, err error) {
	err = s.do(ctx, func(c *storerpc.Client) error {
		i, err = c.Stat(ctx, key)
		return err
	})
	return i, err
}

// Delete implements chunkstore.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	return s.do(ctx, func(c *storerpc.Client) error { return c.Delete(ctx, key) })
}

// List implements chunkstore.Store. On a new connection it continues after the last key.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[chunkstore.Info, error] {
	return func(yield func(chunkstore.Info, error) bool) {
		done := false
		err := s.do(ctx, func(c *storerpc.Client) error {
			for info, err := range c.List(ctx, prefix, after) {
				if err != nil {
					return err
				}
				after = info.Key
				if !yield(info, nil) {
					done = true
					return nil
				}
			}
			return nil
		})
		if err != nil && !done {
			yield(chunkstore.Info{}, err)
		}
	}
}

var _ chunkstore.Store = (*Store)(nil)
