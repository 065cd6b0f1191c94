package chunkstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Now returns the store's time: when it says that an object was stored which
// this call replaced. Times of objects are compared with it, never with a clock
// of this machine. Whoever calls has the key to himself, or shares it with
// others that call Now. A store that answers with what it had before says an
// earlier time.
func Now(ctx context.Context, s Store, key string) (time.Time, error) {
	if err := s.Replace(ctx, key, []byte("clock")); err != nil {
		return time.Time{}, fmt.Errorf("ask the store for the time: %w", err)
	}
	info, err := s.Stat(ctx, key)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask the store for the time: %w", err)
	}
	if info.Modified.IsZero() {
		return time.Time{}, objectError("ask the store for the time: stat", key, errors.New("it does not say when it was stored"))
	}
	return info.Modified, nil
}

// IsConditional finds out whether Put leaves an object as it is that is there,
// as Store promises: servers that speak S3 without knowing If-None-Match
// replace it. It needs one object of its own, which stays.
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
		if !created { // the object was there, and the store knew
			got, err := s.Get(ctx, key, nil, 1<<10)
			if err != nil {
				return false, fmt.Errorf("probe the store: %w", err)
			}
			if string(got) != string(text) || last {
				return string(got) != string(text), nil
			} // else the answer to the first of two attempts was lost
		}
	}
	return false, nil // it created one object twice
}
