package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// ErrDenied is the error for an operation that is not allowed: by a limited store, or by the place
// that a store is in.
var ErrDenied = errors.New("not allowed")

// Rights limit the operations of one user of a store. The zero value allows all operations that do
// not change existing objects: all except Replace and Delete.
type Rights struct {
	// Prefix is the prefix of all keys in the underlying store. The user neither specifies nor sees
	// it. It is empty, or a key followed by "/".
	Prefix string
	// Delete and Replace are the prefixes of keys that may be deleted and replaced. "" means all
	// keys.
	Delete, Replace []string
	// Put are the prefixes of keys that may be stored; nil means all keys. An object that exists is
	// never changed by Put, but in some stores a new object says something about others, such as
	// that a snapshot is no longer needed.
	Put []string
	// ReadOnly refuses all operations that write.
	ReadOnly bool
}

// limited is a store with the rights of one user.
type limited struct {
	store  Store
	rights Rights
}

// Limit returns a view of a store with the given rights. Closing it does not close the underlying
// store.
func Limit(s Store, r Rights) (Store, error) {
	if name, ok := strings.CutSuffix(r.Prefix, "/"); r.Prefix != "" {
		if err := CheckKey(name); err != nil || !ok {
			return nil, fmt.Errorf("%w: prefix %q", ErrKey, r.Prefix)
		}
	}
	return &limited{s, r}, nil
}

// key returns the key in the underlying store.
func (l *limited) key(key string) (string, error) {
	if err := CheckKey(key); err != nil {
		return "", err
	}
	return l.rights.Prefix + key, nil
}

// change returns the key in the underlying store of an object that the user wants to change, or
// ErrDenied.
func (l *limited) change(op, key string, allowed []string) (string, error) {
	k, err := l.key(key)
	if err != nil {
		return "", err
	}
	if l.rights.ReadOnly || !slices.ContainsFunc(allowed, func(p string) bool { return strings.HasPrefix(key, p) }) {
		return "", objectError(op, key, ErrDenied)
	}
	return k, nil
}

var anyKey = []string{""}

// Get implements Store.
func (l *limited) Get(ctx context.Context, key string, room []byte, limit int) ([]byte, error) {
	k, err := l.key(key)
	if err != nil {
		return nil, err
	}
	return l.store.Get(ctx, k, room, limit)
}

// GetRange implements Store.
func (l *limited) GetRange(ctx context.Context, key string, off int64, dst []byte) error {
	k, err := l.key(key)
	if err != nil {
		return err
	}
	return l.store.GetRange(ctx, k, off, dst)
}

// Put implements Store.
func (l *limited) Put(ctx context.Context, key string, data []byte) (bool, error) {
	allowed := l.rights.Put
	if allowed == nil {
		allowed = anyKey
	}
	k, err := l.change("put", key, allowed)
	if err != nil {
		return false, err
	}
	return l.store.Put(ctx, k, data)
}

// Replace implements Store.
func (l *limited) Replace(ctx context.Context, key string, data []byte) error {
	k, err := l.change("replace", key, l.rights.Replace)
	if err != nil {
		return err
	}
	return l.store.Replace(ctx, k, data)
}

// Stat implements Store.
func (l *limited) Stat(ctx context.Context, key string) (Info, error) {
	k, err := l.key(key)
	if err != nil {
		return Info{}, err
	}
	info, err := l.store.Stat(ctx, k)
	info.Key = key
	if err != nil {
		return Info{}, err
	}
	return info, nil
}

// Delete implements Store.
func (l *limited) Delete(ctx context.Context, key string) error {
	k, err := l.change("delete", key, l.rights.Delete)
	if err != nil {
		return err
	}
	return l.store.Delete(ctx, k)
}

// List implements Store.
func (l *limited) List(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := checkList(prefix, after); err != nil {
			yield(Info{}, err)
			return
		}
		if after != "" {
			after = l.rights.Prefix + after
		}
		for info, err := range l.store.List(ctx, l.rights.Prefix+prefix, after) {
			info.Key = strings.TrimPrefix(info.Key, l.rights.Prefix)
			if !yield(info, err) {
				return
			}
		}
	}
}

// Close implements Store.
func (l *limited) Close() error { return nil }
