package chunkstore

import (
	"context"
	"encoding/hex"
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
	// ErrRange: the object ends before the range that the caller wanted.
	ErrRange = errors.New("object ends before the range")
)

// Store keeps objects of some MiB at most by key. It is safe for concurrent
// use, by several processes too. Every method ends early, with ctx's error,
// when ctx does.
type Store interface {
	// Get returns an object of at most limit bytes, in room if it fits there,
	// else in new memory; the caller may change it.
	Get(ctx context.Context, key string, room []byte, limit int) ([]byte, error)
	// GetRange fills dst with the object's bytes from off on. It is ErrRange if
	// there are fewer; what dst holds after an error is undefined.
	GetRange(ctx context.Context, key string, off int64, dst []byte) error
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
	// List yields the objects whose keys begin with prefix and come after the
	// key after, by key, byte by byte. What comes and goes meanwhile may be
	// missing. After an error it ends.
	List(ctx context.Context, prefix, after string) iter.Seq2[Info, error]
	// Close ends the store's use.
	Close() error
}

// Info is what a store knows of an object.
type Info struct {
	Key      string
	Bytes    int64
	Modified time.Time // when it was stored, by the store's clock
	// SHA256 is the hash that the store keeps of the object's bytes, which it
	// compared with them when they came. Nil if it keeps none, and in lists.
	SHA256 *[32]byte
}

// NamedHash returns the SHA-256 that an object's key promises: packs and pages
// of pack lists are named by their hash. S3 is told, and refuses other bytes.
func NamedHash(key string) (sum [32]byte, ok bool) {
	if !strings.HasPrefix(key, "packs/") && !strings.HasPrefix(key, "lists/") {
		return sum, false
	}
	name := key[strings.LastIndexByte(key, '/')+1:]
	if len(name) != hex.EncodedLen(len(sum)) {
		return sum, false
	}
	_, err := hex.Decode(sum[:], []byte(name))
	return sum, err == nil
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

// rangeError says which bytes are missing; size < 0 is not known.
func rangeError(off int64, n int, size int64) error {
	if size < 0 {
		return fmt.Errorf("%w: %d bytes from %d on", ErrRange, n, off)
	}
	return fmt.Errorf("%w: %d bytes from %d on, of %d", ErrRange, n, off, size)
}

// checkList checks what List takes: after is empty or the beginning of a key.
func checkList(prefix, after string) error {
	if err := CheckPrefix(prefix); err != nil {
		return err
	}
	return CheckPrefix(after)
}
