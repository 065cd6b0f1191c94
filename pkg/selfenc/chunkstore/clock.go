package chunkstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Now returns the store's time: the time of an object that this call stores under key. Compare
// times of objects with it, never with the clock of this machine. Only callers of Now may use the
// key. A store that returns stale data may return an earlier time.
func Now(ctx context.Context, s Store, key string) (time.Time, error) {
	if err := s.Replace(ctx, key, []byte("clock")); err != nil {
		return time.Time{}, fmt.Errorf("ask the store for the time: %w", err)
	}
	info, err := s.Stat(ctx, key)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask the store for the time: %w", err)
	}
	if info.Modified.IsZero() {
		return time.Time{}, objectError("ask the store for the time: stat", key, errors.New("the store does not return the time of storing"))
	}
	return info.Modified, nil
}

// IsConditional tests whether Put leaves an existing object unchanged, as Store promises. S3
// servers without support for If-None-Match replace it. It needs a key for one object, which
// remains in the store.
func IsConditional(ctx context.Context, s Store, key string) (bool, error) {
	var bytes [2][16]byte
	for i := range bytes {
		last := i == len(bytes)-1
		rand.Read(bytes[i][:])
		text := []byte(hex.EncodeToString(bytes[i][:]))
		created, err := s.Put(ctx, key, text)
		if err != nil {
			return false, fmt.Errorf("probe the store: %w", err)
		}
		if !created { // the object existed, and the store detected it
			got, err := s.Get(ctx, key, nil, 1<<10)
			if err != nil {
				return false, fmt.Errorf("probe the store: %w", err)
			}
			if string(got) != string(text) || last {
				return string(got) != string(text), nil
			} // otherwise, the answer to the first of two attempts was lost
		}
	}
	return false, nil // the store created one object twice
}
