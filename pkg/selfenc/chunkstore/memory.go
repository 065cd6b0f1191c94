package chunkstore

import (
	"bytes"
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Memory is a store in the memory of the process.
type Memory struct {
	mu      sync.RWMutex
	objects map[string]memoryObject // guarded by mu; data is never changed
	sorted  []string                // guarded by mu; all keys, or nil after they changed
}

type memoryObject struct {
	data     []byte
	modified time.Time
}

// NewMemory returns an empty store.
func NewMemory() *Memory { return &Memory{objects: map[string]memoryObject{}} }

// ready makes the checks before every use of a key.
func ready(ctx context.Context, key string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return CheckKey(key)
}

// Get implements Store.
func (m *Memory) Get(ctx context.Context, key string, room []byte, limit int) ([]byte, error) {
	if err := ready(ctx, key); err != nil {
		return nil, err
	}
	m.mu.RLock()
	o, ok := m.objects[key]
	m.mu.RUnlock()
	switch {
	case !ok:
		return nil, objectError("get", key, ErrNotFound)
	case len(o.data) > limit:
		return nil, objectError("get", key, ErrTooLarge)
	}
	b := inRoom(room, int64(len(o.data)))
	copy(b, o.data)
	return b, nil
}

// Put implements Store.
func (m *Memory) Put(ctx context.Context, key string, data []byte) (bool, error) {
	if err := ready(ctx, key); err != nil {
		return false, err
	}
	o := memoryObject{bytes.Clone(data), time.Now()}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[key]; ok {
		return false, nil
	}
	m.objects[key], m.sorted = o, nil
	return true, nil
}

// Replace implements Store.
func (m *Memory) Replace(ctx context.Context, key string, data []byte) error {
	if err := ready(ctx, key); err != nil {
		return err
	}
	o := memoryObject{bytes.Clone(data), time.Now()}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[key]; !ok {
		m.sorted = nil
	}
	m.objects[key] = o
	return nil
}

// Stat implements Store.
func (m *Memory) Stat(ctx context.Context, key string) (Info, error) {
	if err := ready(ctx, key); err != nil {
		return Info{}, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	o, ok := m.objects[key]
	if !ok {
		return Info{}, objectError("stat", key, ErrNotFound)
	}
	return Info{Key: key, Bytes: int64(len(o.data)), Modified: o.modified}, nil
}

// Delete implements Store.
func (m *Memory) Delete(ctx context.Context, key string) error {
	if err := ready(ctx, key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key)
	m.sorted = nil
	return nil
}

// GetRange implements Store.
func (m *Memory) GetRange(ctx context.Context, key string, off int64, dst []byte) error {
	if err := ready(ctx, key); err != nil {
		return err
	}
	m.mu.RLock()
	o, ok := m.objects[key]
	m.mu.RUnlock()
	switch {
	case !ok:
		return objectError("get", key, ErrNotFound)
	case off < 0 || off > int64(len(o.data)) || int64(len(o.data))-off < int64(len(dst)):
		return objectError("get", key, rangeError(off, len(dst), int64(len(o.data))))
	}
	copy(dst, o.data[off:])
	return nil
}

// List implements Store.
func (m *Memory) List(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := checkList(prefix, after); err != nil {
			yield(Info{}, err)
			return
		}
		keys := m.sortedKeys()
		i, _ := slices.BinarySearch(keys, max(prefix, after))
		for _, k := range keys[i:] {
			if !strings.HasPrefix(k, prefix) {
				return
			}
			if err := context.Cause(ctx); err != nil {
				yield(Info{}, err)
				return
			}
			m.mu.RLock()
			o, ok := m.objects[k]
			m.mu.RUnlock()
			if ok && k > after && !yield(Info{Key: k, Bytes: int64(len(o.data)), Modified: o.modified}, nil) {
				return
			}
		}
	}
}

// sortedKeys returns all keys. The list must not be changed.
func (m *Memory) sortedKeys() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sorted == nil {
		m.sorted = slices.Sorted(maps.Keys(m.objects))
	}
	return m.sorted
}

// Close implements Store.
func (m *Memory) Close() error { return nil }
