package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"
)

// Errors of all stores; compare with errors.Is.
var (
	// ErrNotFound: there is no object of that key.
	ErrNotFound = errors.New("no such object")
	// ErrTooLarge: the object is longer than the caller wanted.
	ErrTooLarge = errors.New("object is larger than it may be")
	// ErrKey: a key that no store takes; see CheckKey.
	ErrKey = errors.New("invalid key")
)

// Store keeps objects of some MiB at most by key. It is safe for concurrent
// use, by several processes too. Every method ends early, with ctx's error,
// when ctx does.
type Store interface {
	// Get returns an object of at most limit bytes, in room if it fits there,
	// else in new memory; the caller may change it.
	Get(ctx context.Context, key string, room []byte, limit int) ([]byte, error)
	// Put stores data, durably, unless there is an object of that key, which
	// is then left as it is; it reports which. Of several at once, one stores.
	// It does not keep data.
	Put(ctx context.Context, key string, data []byte) (created bool, err error)
	// Replace stores data, durably, in place of what there may be.
	Replace(ctx context.Context, key string, data []byte) error
	// Stat returns what is known of an object without reading it.
	Stat(ctx context.Context, key string) (Info, error)
	// Delete removes an object; that there is none is no error.
	Delete(ctx context.Context, key string) error
	// List yields the objects whose keys begin with prefix, by key, byte by
	// byte. What comes and goes meanwhile may be missing. After an error it ends.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
	// Close ends the store's use.
	Close() error
}

// Info is what a store knows of an object.
type Info struct {
	Key      string
	Bytes    int64
	Modified time.Time // when it was stored, by the store's clock
}

const maxKeyBytes = 512

// CheckKey checks a key: names of letters, digits, '-', '_' and '.', which do
// not begin with '.', joined by '/'; at most 512 bytes.
func CheckKey(key string) error {
	if len(key) == 0 || len(key) > maxKeyBytes {
		return fmt.Errorf("%w: of %d bytes", ErrKey, len(key))
	}
	for name := range strings.SplitSeq(key, "/") {
		if name == "" || name[0] == '.' || len(name) > 255 {
			return fmt.Errorf("%w %q", ErrKey, key)
		}
	}
	return CheckPrefix(key)
}

// CheckPrefix checks what List takes: the beginning of a key, or nothing.
func CheckPrefix(prefix string) error {
	for _, c := range []byte(prefix) {
		if !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_./", rune(c)) {
			return fmt.Errorf("%w %q", ErrKey, prefix)
		}
	}
	if len(prefix) > maxKeyBytes || strings.HasPrefix(prefix, "/") || strings.HasPrefix(prefix, ".") || strings.Contains(prefix, "//") || strings.Contains(prefix, "/.") {
		return fmt.Errorf("%w %q", ErrKey, prefix)
	}
	return nil
}

// objectError says which object an error is about.
func objectError(op, key string, err error) error { return fmt.Errorf("%s %s: %w", op, key, err) }

// inRoom returns n bytes, of room if it has so many.
func inRoom(room []byte, n int64) []byte {
	if int64(cap(room)) >= n {
		return room[:n]
	}
	return make([]byte, n)
}
