package snapshot_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/create"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/gc"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/volume/volumetest"
)

var hostileCount = flag.Int("snapshot.hostile", 40, "number of hostile snapshots")

var crashAll = flag.Bool("snapshot.crashes", false, "all crashes")

// crashRig is a volume with a base that is stored, and a state that is to be.
type crashRig struct {
	*historyRig
	base    *create.Report
	content [32]byte // of the state
	bytes   int64    // that storing it takes
}

const crashPack = 1 << 20

func newCrashRig(t *testing.T) *crashRig {
	h := volumetest.NewHistory(t, 77, 96<<20)
	r := &crashRig{historyRig: newHistoryRig(t, h, snapstore.Options{ChunkBytes: 16 << 10, PackBytes: crashPack})}
	r.v = h.V
	h.Steps(300)
	h.Allow(h.V.Sync(1))
	_, err := h.V.CreateSnapshot("base")
	r.ok(err)
	b := make([]byte, 5<<20)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(b)
	r.write("more", b, 0)
	h.Steps(100)
	_, err = h.V.CreateSnapshot("next")
	r.ok(err)
	r.base = r.put("", "base", r.options(nil))
	d := &dying{Store: r.store.Objects()}
	o := r.options(r.base)
	o.Store = d
	rep := r.put("base", "next", o)
	r.content, r.bytes = rep.Content, d.packBytes()
	return r
}

// fork copies the store.
func (r *crashRig) fork(from chunkstore.Store) *chunkstore.Memory {
	r.t.Helper()
	to := chunkstore.NewMemory()
	for info, err := range from.List(r.t.Context(), "", "") {
		r.ok(err)
		b, err := from.Get(r.t.Context(), info.Key, nil, 64<<20)
		r.ok(err)
		r.ok(to.Replace(r.t.Context(), info.Key, b))
	}
	var err error
	r.store, err = snapstore.Open(r.t.Context(), to)
	r.ok(err)
	return to
}

// attempt makes an attempt at s, which dies or not.
func (r *crashRig) attempt(s format.ID, d *dying) (*create.Report, error) {
	o := r.options(r.base)
	o.S, o.Store, o.Credential, o.Fixed, o.Suite = s, d, r.cred, true, 1
	return r.tryPut("base", "next", o)
}

// TestCrash has writers die at every operation, and others go on.
func TestCrash(t *testing.T) {
	r := newCrashRig(t)
	golden := r.store.Objects()
	cases := 0
	defer func() { t.Log(cases, "cases") }()
	for _, lost := range []bool{false, true} {
		for at, more := 1, true; more; at++ {
			for i, prune := range []string{"", "now", "late"} {
				if !*crashAll && i != r.h.Rng.IntN(3) {
					continue
				}
				cases++
				r.fork(golden)
				what := fmt.Sprintf("operation %d, lost: %t, prune: %q", at, lost, prune)
				s := format.NewID()
				d := &dying{Store: r.store.Objects(), at: at, lost: lost}
				if _, err := r.attempt(s, d); err == nil {
					more = d.n >= at // W6 may fail
				} else if !errors.Is(err, errDead) {
					t.Fatalf("%s: %v", what, err)
				}
				r.after(what, s, d, prune)
			}
		}
	}
	r.h.Close()
}

// after goes on with s after an attempt.
func (r *crashRig) after(what string, s format.ID, d *dying, prune string) {
	t := r.t
	t.Helper()
	_, _, whole := commit.Whole(t.Context(), r.store.Objects(), s)
	if whole == nil {
		r.verifyContent(what, s)
	} else if !errors.Is(whole, commit.ErrNoBase) {
		t.Fatalf("%s: %v", what, whole)
	}
	r.prune(what, prune)
	second := &dying{Store: r.store.Objects()}
	rep, err := r.attempt(s, second)
	switch {
	case errors.Is(err, commit.ErrVoid) && prune == "late" && whole != nil:
		second = &dying{Store: r.store.Objects()}
		if rep, err = r.attempt(format.NewID(), second); err != nil {
			t.Fatalf("%s: again: %v", what, err)
		}
	case err != nil:
		t.Fatalf("%s: went on: %v", what, err)
	default:
		// What was in flight or open is stored again.
		if n := d.packBytes() + second.packBytes(); n > r.bytes+6*crashPack || prune == "" && d.packBytes() > 4*crashPack && second.packBytes() > r.bytes-crashPack {
			t.Errorf("%s: %d and then %d bytes were stored, for %d", what, d.packBytes(), second.packBytes(), r.bytes)
		}
	}
	r.prune(what, prune)
	r.prune(what, "late")
	r.prune(what, "late")
	if rep.Content != r.content {
		t.Fatalf("%s: another content", what)
	}
	r.verifyContent(what, rep.S)
	r.verifyContent(what, r.base.S)
}

func (r *crashRig) prune(what, how string) {
	r.t.Helper()
	store := r.store.Objects()
	switch how {
	case "":
		return
	case "late":
		store = aged{store}
	}
	for range 2 {
		if _, err := gc.Prune(r.t.Context(), store, gc.Options{Undelete: -1, Grace: -1}); err != nil {
			r.t.Fatalf("%s: prune: %v", what, err)
		}
	}
}

func (r *crashRig) verifyContent(what string, s format.ID) {
	r.t.Helper()
	sn := r.read(s)
	defer sn.Close()
	if s != r.base.S && sn.Content() != r.content {
		r.t.Fatalf("%s: another content", what)
	}
	r.verify(&create.Report{S: s, Files: sn.Body.Files, Dirs: sn.Body.Dirs, Packs: sn.Head.Packs}, false)
}
