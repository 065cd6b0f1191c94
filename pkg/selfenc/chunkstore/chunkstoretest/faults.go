package chunkstoretest

import (
	"bytes"
	"context"
	"errors"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
)

// Faulty is a store that changes or fails requests.
type Faulty struct {
	chunkstore.Store
	OnGet func(ctx context.Context, key string, data []byte) ([]byte, error) // is called with the result of each Get
	OnPut func(ctx context.Context, key string) error                        // is called before each Put
}

// GetRange implements chunkstore.Store. OnGet is called with the bytes, and its result is cut to
// the requested length.
func (f *Faulty) GetRange(ctx context.Context, key string, off int64, dst []byte) error {
	err := f.Store.GetRange(ctx, key, off, dst)
	if err != nil || f.OnGet == nil {
		return err
	}
	b, err := f.OnGet(ctx, key, bytes.Clone(dst))
	if err == nil && len(b) < len(dst) {
		err = chunkstore.ErrRange
	}
	copy(dst, b)
	return err
}

// ErrRefused is the error of a store that refuses requests.
var ErrRefused = errors.New("the store refuses the request")

// Get implements chunkstore.Store.
func (f *Faulty) Get(ctx context.Context, key string, room []byte, limit int) ([]byte, error) {
	b, err := f.Store.Get(ctx, key, room, limit)
	if err != nil || f.OnGet == nil {
		return b, err
	}
	return f.OnGet(ctx, key, b)
}

// Put implements chunkstore.Store.
func (f *Faulty) Put(ctx context.Context, key string, data []byte) (bool, error) {
	if f.OnPut != nil {
		if err := f.OnPut(ctx, key); err != nil {
			return false, err
		}
	}
	return f.Store.Put(ctx, key, data)
}

// Lost acts like a store without the object.
func Lost(context.Context, string, []byte) ([]byte, error) { return nil, chunkstore.ErrNotFound }

// Truncated returns all but the last byte.
func Truncated(_ context.Context, _ string, b []byte) ([]byte, error) {
	return b[:max(0, len(b)-1)], nil
}

// Emptied returns nothing.
func Emptied(context.Context, string, []byte) ([]byte, error) { return []byte{}, nil }

// Extended returns an additional byte.
func Extended(_ context.Context, _ string, b []byte) ([]byte, error) { return append(b, 0), nil }

// Corrupted returns the object with one flipped bit.
func Corrupted(_ context.Context, _ string, b []byte) ([]byte, error) {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 4
	return b, nil
}

// Refused acts like a store without permission.
func Refused(context.Context, string, []byte) ([]byte, error) { return nil, ErrRefused }

// Slow returns only when ctx ends.
func Slow(ctx context.Context, _ string, _ []byte) ([]byte, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// Unconditional returns a store that does not support conditional puts: Put replaces an existing
// object.
func Unconditional(s chunkstore.Store) chunkstore.Store { return &replacing{s} }

type replacing struct{ chunkstore.Store }

func (r *replacing) Put(ctx context.Context, key string, data []byte) (bool, error) {
	return true, r.Replace(ctx, key, data)
}
