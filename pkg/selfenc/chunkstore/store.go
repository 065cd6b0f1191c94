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

// Errors of all stores. Compare them with errors.Is.
var (
	// ErrNotFound means that no object with this key exists.
	ErrNotFound = errors.New("no such object")
	// ErrTooLarge means that the object is longer than the caller's limit.
	ErrTooLarge = errors.New("object is larger than the limit")
	// ErrKey means that the key is invalid; see CheckKey.
	ErrKey = errors.New("invalid key")
	// ErrRange means that the object ends before the end of the requested range.
	ErrRange = errors.New("object ends before the end of the range")
)

// Store stores objects of at most a few MiB by key. It is safe for concurrent use, even by several
// processes. When ctx ends, every method returns early, with ctx's error.
type Store interface {
	// Get returns an object of at most limit bytes. It uses the memory of room if that is large
	// enough, and new memory otherwise. The caller may change the result.
	Get(ctx context.Context, key string, room []byte, limit int) ([]byte, error)
	// GetRange fills dst with the object's bytes at off. If there are fewer bytes, it returns
	// ErrRange. After an error, the content of dst is undefined.
	GetRange(ctx context.Context, key string, off int64, dst []byte) error
	// Put stores data durably, and returns true. If an object with this key exists, Put does not
	// change it, and returns false. Of several concurrent Puts, one stores. Put does not keep data.
	Put(ctx context.Context, key string, data []byte) (created bool, err error)
	// Replace stores data durably, and replaces an existing object.
	Replace(ctx context.Context, key string, data []byte) error
	// Stat returns the properties of an object without reading it.
	Stat(ctx context.Context, key string) (Info, error)
	// Delete removes an object. It is not an error if the object does not exist.
	Delete(ctx context.Context, key string) error
	// List yields the objects whose keys begin with prefix and are greater than after, in the byte
	// order of keys. Objects that are created or deleted meanwhile may be missing. After an error,
	// it ends.
	List(ctx context.Context, prefix, after string) iter.Seq2[Info, error]
	// Close closes the store.
	Close() error
}

// Info contains the properties of an object.
type Info struct {
	Key      string
	Bytes    int64
	Modified time.Time // the time of storing, by the store's clock
	// SHA256 is the hash of the object that the store keeps. The store has verified it when it
	// received the object. It is nil in lists, and if the store keeps no hash.
	SHA256 *[32]byte
}

// NamedHash returns the SHA-256 in an object's key: packs and pages of pack lists are named by
// their hash. It is sent to S3, which refuses other bytes. The key may have a prefix, as below
// Limit.
func NamedHash(key string) (sum [32]byte, ok bool) {
	dir, name, ok := cutLast(key)
	if dir = "/" + dir + "/"; !ok || !strings.Contains(dir, "/packs/") && !strings.Contains(dir, "/lists/") {
		return sum, false
	}
	if len(name) != hex.EncodedLen(len(sum)) {
		return sum, false
	}
	_, err := hex.Decode(sum[:], []byte(name))
	return sum, err == nil
}

// cutLast splits a key before its last name.
func cutLast(key string) (dir, name string, ok bool) {
	i := strings.LastIndexByte(key, '/')
	if i < 0 {
		return "", key, false
	}
	return key[:i], key[i+1:], true
}

const maxKeyBytes = 512

// CheckKey checks a key. It consists of names joined by '/', and has at most 512 bytes. A name
// consists of letters, digits, '-', '_' and '.', and does not begin with '.'.
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

// CheckPrefix checks a prefix for List: the beginning of a key, or "".
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

// objectError adds the operation and the key to an error.
func objectError(op, key string, err error) error { return fmt.Errorf("%s %s: %w", op, key, err) }

// inRoom returns n bytes of memory. It uses room if that is large enough.
func inRoom(room []byte, n int64) []byte {
	if int64(cap(room)) >= n {
		return room[:n]
	}
	return make([]byte, n)
}

// rangeError adds the range to ErrRange. size < 0 means that the size is unknown.
func rangeError(off int64, n int, size int64) error {
	if size < 0 {
		return fmt.Errorf("%w: %d bytes from %d on", ErrRange, n, off)
	}
	return fmt.Errorf("%w: %d bytes from %d on, of %d", ErrRange, n, off, size)
}

// checkList checks the arguments of List. after is "" or the beginning of a key.
func checkList(prefix, after string) error {
	if err := CheckPrefix(prefix); err != nil {
		return err
	}
	return CheckPrefix(after)
}
