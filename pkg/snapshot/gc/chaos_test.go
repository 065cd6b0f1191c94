package gc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// chaos is a store that misbehaves now and then, in one way. What it keeps below
// is right, so that a test can tell what was lost.
type chaos struct {
	chunkstore.Store
	how string

	mu  sync.Mutex
	rng *rand.Rand        // guarded by mu
	old map[string][]byte // guarded by mu: what keys had before
}

var (
	errFull    = errors.New("no space left on device")
	errRefused = errors.New("503 Slow Down")
)

// now reports whether it misbehaves at this call.
func (c *chaos) now(how string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.how == how && c.rng.IntN(8) == 0
}

func (c *chaos) String() string { return "s3://chaos/" + c.how }

func (c *chaos) fail(op, key string) error {
	switch {
	case c.now("refuses"):
		return fmt.Errorf("%s %s: %w", op, key, errRefused)
	case c.now("full") && (op == "put" || op == "replace"):
		return fmt.Errorf("%s %s: %w", op, key, errFull)
	}
	return nil
}

// lost is the error of an operation that was done.
func (c *chaos) lost(op, key string, err error) error {
	if err == nil && c.now("loses answers") {
		return fmt.Errorf("%s %s: %w", op, key, errRefused)
	}
	return err
}

func (c *chaos) Get(ctx context.Context, key string, room []byte, limit int) ([]byte, error) {
	if err := c.fail("get", key); err != nil {
		return nil, err
	}
	b, err := c.Store.Get(ctx, key, room, limit)
	c.mu.Lock()
	before := c.old[key]
	c.mu.Unlock()
	switch {
	case err != nil:
	case c.now("truncates"):
		b = b[:len(b)/2]
	case c.now("returns wrong bytes") && len(b) > 0:
		b = bytes.Clone(b)
		b[len(b)/2] ^= 0x10
	case before != nil && c.now("returns old bytes"):
		b = before
	}
	return b, c.lost("get", key, err)
}

func (c *chaos) Put(ctx context.Context, key string, data []byte) (bool, error) {
	if err := c.fail("put", key); err != nil {
		return false, err
	}
	created, err := c.Store.Put(ctx, key, data)
	if err == nil && c.now("repeats") { // as a proxy that got no answer
		created, err = c.Store.Put(ctx, key, data)
	}
	return created, c.lost("put", key, err)
}

func (c *chaos) Replace(ctx context.Context, key string, data []byte) error {
	if err := c.fail("replace", key); err != nil {
		return err
	}
	if b, err := c.Store.Get(ctx, key, nil, 1<<20); err == nil {
		c.mu.Lock()
		c.old[key] = b
		c.mu.Unlock()
	}
	err := c.Store.Replace(ctx, key, data)
	if err == nil && c.now("repeats") {
		err = c.Store.Replace(ctx, key, data)
	}
	return c.lost("replace", key, err)
}

func (c *chaos) Delete(ctx context.Context, key string) error {
	if err := c.fail("delete", key); err != nil {
		return err
	}
	return c.lost("delete", key, c.Store.Delete(ctx, key))
}

func (c *chaos) Stat(ctx context.Context, key string) (chunkstore.Info, error) {
	if err := c.fail("stat", key); err != nil {
		return chunkstore.Info{}, err
	}
	return c.Store.Stat(ctx, key)
}

// List lags: what came in the last moments may be missing.
func (c *chaos) List(ctx context.Context, prefix, after string) iter.Seq2[chunkstore.Info, error] {
	return func(yield func(chunkstore.Info, error) bool) {
		if err := c.fail("list", prefix); err != nil {
			yield(chunkstore.Info{}, err)
			return
		}
		for info, err := range c.Store.List(ctx, prefix, after) {
			if err == nil && time.Since(info.Modified) < 20*time.Millisecond && c.now("lags") {
				continue
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

// TestChaos lets writers and pruners use stores that misbehave: every error names
// an object and the store, and what was promised is whole below.
func TestChaos(t *testing.T) {
	for _, how := range []string{"refuses", "full", "loses answers", "repeats", "truncates", "returns wrong bytes", "returns old bytes", "lags"} {
		t.Run(how, func(t *testing.T) {
			failures := 0
			for seed := range uint64(30) {
				c := &chaosRun{chaos: &chaos{Store: chunkstore.NewMemory(), how: how, rng: rand.New(rand.NewPCG(seed, 9)), old: map[string][]byte{}}}
				c.run(t)
				failures += c.failures
			}
			if harmless := how == "repeats" || how == "returns old bytes" || how == "lags"; !harmless && failures < 20 {
				t.Errorf("%d failures: it behaves too well", failures)
			}
		})
	}
}

type chaosRun struct {
	*chaos
	promised []format.ID
	packs    map[format.ID][]format.Name
	failures int
}

func (c *chaosRun) run(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	store, err := (&format.Store{Format: 1, ID: format.NewID().String(), Consistency: format.Strong, ChunkBytes: 65536, PackBytes: 16 << 20}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Store.Put(ctx, format.StoreKey, store); err != nil {
		t.Fatal(err)
	}
	c.packs = map[format.ID][]format.Name{}
	// A store whose listings lag is told so: then the grace is a day.
	o := Options{Undelete: -1, Grace: -1, Parallel: 4}
	if c.how == "lags" {
		o.Grace = time.Hour
	}
	for i := range 6 {
		c.check(t, c.write(ctx, i))
		_, err := Prune(ctx, c.chaos, o)
		c.check(t, err)
		if i == 3 && len(c.promised) > 1 {
			s := c.promised[0]
			c.check(t, commit.Forget(ctx, c.chaos, s, "test"))
			c.promised = c.promised[1:]
		}
	}
	for _, s := range c.promised {
		if _, _, err := commit.Whole(ctx, c.Store, s); err != nil {
			t.Errorf("%s: %v", c.how, err)
		}
		for _, n := range c.packs[s] {
			if _, err := c.Store.Stat(ctx, n.Key()); err != nil {
				t.Errorf("%s: snapshot %s lost %v", c.how, s, err)
			}
		}
	}
}

// check looks at an error: it names an object or a snapshot, and what happened.
func (c *chaosRun) check(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	c.failures++
	text := err.Error()
	named := false
	for _, p := range []string{"packs/", "lists/", "snap/", "lease/", "gc/", "snapshot ", format.StoreKey, format.ClockKey, format.ProbeKey} {
		named = named || strings.Contains(text, p)
	}
	if !named && !errors.Is(err, ErrUnconditional) {
		t.Errorf("%s: names no object: %v", c.how, err)
	}
	if strings.HasPrefix(text, "prune") && !strings.Contains(text, "s3://chaos") {
		t.Errorf("%s: names no store: %v", c.how, err)
	}
}

// write commits a snapshot on the last one, if that works.
func (c *chaosRun) write(ctx context.Context, i int) error {
	base := format.ID{}
	if len(c.promised) > 0 {
		base = c.promised[len(c.promised)-1]
	}
	w, err := commit.Begin(ctx, c.chaos, format.NewID(), commit.Options{Base: base, TTL: time.Hour, Who: "chaos"})
	if err != nil {
		return err
	}
	h := &format.Head{Suite: 1, S: w.Snapshot()}
	var names []format.Name
	parent, _, err := w.Base(ctx)
	if err != nil && !errors.Is(err, commit.ErrNoBase) {
		return err
	}
	if err == nil {
		h.Pages, h.Packs, h.Bytes, h.Next = parent.Pages, parent.Packs, parent.Bytes, parent.Next
		names = c.packs[base]
	}
	data := []byte(fmt.Sprint("pack ", i, w.Attempt()))
	name, err := w.Put(ctx, format.Pack, data, format.SumOf(data))
	if err != nil {
		return err
	}
	packs := []format.PackEntry{{Number: h.Next, Name: name, Bytes: 500, Slots: 1}}
	page, err := format.EncodePage(packs)
	if err != nil {
		return err
	}
	ref := format.RefOf(w.Attempt(), page, packs)
	if _, err := w.Put(ctx, format.Page, page, ref.Name.Sum); err != nil {
		return err
	}
	h.Pages = append(h.Pages[:len(h.Pages):len(h.Pages)], ref)
	h.Packs, h.Bytes, h.Next = h.Packs+1, h.Bytes+500, h.Next+1
	manifest, err := format.EncodeManifest(h, []byte("sealed"))
	if err != nil {
		return err
	}
	err = w.Commit(ctx, &commit.Parts{Manifest: manifest, Card: format.EncodeCard(1, make([]byte, 40))})
	if err == nil {
		c.promised = append(c.promised, w.Snapshot())
		c.packs[w.Snapshot()] = append(names[:len(names):len(names)], name, ref.Name)
	}
	return err
}

// counting counts requests.
type counting struct {
	chunkstore.Store
	mu                sync.Mutex
	gets, lists, puts int // guarded by mu
}

func (c *counting) count(n *int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n++
}

func (c *counting) Get(ctx context.Context, key string, room []byte, limit int) ([]byte, error) {
	c.count(&c.gets)
	return c.Store.Get(ctx, key, room, limit)
}

func (c *counting) Stat(ctx context.Context, key string) (chunkstore.Info, error) {
	c.count(&c.gets)
	return c.Store.Stat(ctx, key)
}

func (c *counting) Put(ctx context.Context, key string, data []byte) (bool, error) {
	c.count(&c.puts)
	return c.Store.Put(ctx, key, data)
}

func (c *counting) Replace(ctx context.Context, key string, data []byte) error {
	c.count(&c.puts)
	return c.Store.Replace(ctx, key, data)
}

func (c *counting) List(ctx context.Context, prefix, after string) iter.Seq2[chunkstore.Info, error] {
	c.count(&c.lists)
	return c.Store.List(ctx, prefix, after)
}
