package snapshot_test

import (
	"context"
	"errors"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// errDead is what a process gets that has died.
var errDead = errors.New("dead")

// dying is a store whose user dies at an operation: that one, and all that follow, fail. With lost,
// the operation itself takes place.
type dying struct {
	chunkstore.Store
	at   int // 0: never
	lost bool

	mu   sync.Mutex
	n    int
	sent map[string]int64 // bytes of each pack that was put
}

// step reports whether an operation takes place, and its error.
func (d *dying) step() (do bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.n++
	switch {
	case d.at == 0 || d.n < d.at:
		return true, nil
	case d.n == d.at:
		return d.lost, errDead
	}
	return false, errDead
}

// Get implements chunkstore.Store.
func (d *dying) Get(ctx context.Context, key string, room []byte, limit int) ([]byte, error) {
	if _, err := d.step(); err != nil {
		return nil, err
	}
	return d.Store.Get(ctx, key, room, limit)
}

// GetRange implements chunkstore.Store.
func (d *dying) GetRange(ctx context.Context, key string, off int64, dst []byte) error {
	if _, err := d.step(); err != nil {
		return err
	}
	return d.Store.GetRange(ctx, key, off, dst)
}

// Put implements chunkstore.Store.
func (d *dying) Put(ctx context.Context, key string, data []byte) (created bool, err error) {
	do, dead := d.step()
	if do {
		created, err = d.Store.Put(ctx, key, data)
	}
	if created && strings.HasPrefix(key, format.Pack.Prefix()) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.sent == nil {
			d.sent = map[string]int64{}
		}
		d.sent[key] = int64(len(data))
	}
	return created && dead == nil, errors.Join(err, dead)
}

// Replace implements chunkstore.Store.
func (d *dying) Replace(ctx context.Context, key string, data []byte) (err error) {
	do, dead := d.step()
	if do {
		err = d.Store.Replace(ctx, key, data)
	}
	return errors.Join(err, dead)
}

// Stat implements chunkstore.Store.
func (d *dying) Stat(ctx context.Context, key string) (chunkstore.Info, error) {
	if _, err := d.step(); err != nil {
		return chunkstore.Info{}, err
	}
	return d.Store.Stat(ctx, key)
}

// Delete implements chunkstore.Store.
func (d *dying) Delete(ctx context.Context, key string) (err error) {
	do, dead := d.step()
	if do {
		err = d.Store.Delete(ctx, key)
	}
	return errors.Join(err, dead)
}

// List implements chunkstore.Store.
func (d *dying) List(ctx context.Context, prefix, after string) iter.Seq2[chunkstore.Info, error] {
	if _, err := d.step(); err != nil {
		return func(yield func(chunkstore.Info, error) bool) { yield(chunkstore.Info{}, err) }
	}
	return d.Store.List(ctx, prefix, after)
}

// packBytes is how much was put into packs.
func (d *dying) packBytes() (n int64) {
	for _, b := range d.sent {
		n += b
	}
	return n
}

// aged is a store in which all leases are old.
type aged struct{ chunkstore.Store }

// List implements chunkstore.Store.
func (a aged) List(ctx context.Context, prefix, after string) iter.Seq2[chunkstore.Info, error] {
	return func(yield func(chunkstore.Info, error) bool) {
		for info, err := range a.Store.List(ctx, prefix, after) {
			if strings.HasPrefix(info.Key, format.LeasePrefix) {
				info.Modified = info.Modified.Add(-48 * time.Hour)
			}
			if !yield(info, err) {
				return
			}
		}
	}
}
