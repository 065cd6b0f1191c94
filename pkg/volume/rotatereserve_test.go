package volume

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/shares"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// A rotation changes records of shared data while others reserve ranges, share and
// overwrite: what records say of being owed stays what is counted, and what is shared
// and reserved says so. fsck compares both.

// heldRotation is a rotation that stops before each step of what is shared, until the
// test lets it go on.
type heldRotation struct {
	*reserved
	steps chan chan struct{}
}

func holdRotation(r *reserved) *heldRotation {
	h := &heldRotation{r, make(chan chan struct{})}
	r.v.rot.moves = func() {
		proceed := make(chan struct{})
		h.steps <- proceed
		<-proceed
	}
	_, err := r.v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{testKey(r.t).Credential}, BytesPerSecond: -1})
	ok(r.t, err)
	return h
}

// finish lets the rotation go on to its end, and has fsck look.
func (h *heldRotation) finish(step chan struct{}) {
	h.t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		close(step)
		for s := range h.steps {
			close(s)
		}
	}()
	if s := rotated(h.t, h.v); s.Phase != RotationNone {
		h.t.Fatalf("%+v", s)
	}
	close(h.steps)
	<-ended
	h.v.rot.moves = nil
	checkSpace(h.t, h.v)
	mustClose(h.t, h.v)
	ok(h.t, cleanErr(h.dev))
}

func (h *heldRotation) reserve(ino vfs.Ino) {
	h.t.Helper()
	ok(h.t, h.v.Fallocate(crashReq, ino, vfs.FallocKeepSize, 0, pageBytes))
}

// overwriteAll has a file's blocks on the device that nothing else refers to.
func (h *heldRotation) overwriteAll(inos ...vfs.Ino) {
	h.t.Helper()
	for _, ino := range inos {
		h.write(ino, 0, bufferBytes)
	}
	ok(h.t, h.v.Sync(vfs.RootIno))
}

func (h *heldRotation) restamp() {
	h.t.Helper()
	ok(h.t, h.v.ranges.restamp(func() bool { return false }))
}

// What a record says changes between the two times that a step looks at it.
func TestRotateReserveBetween(t *testing.T) {
	for _, c := range []struct {
		name            string
		before          bool // a is reserved from the start
		look, meanwhile func(h *heldRotation, a, b, c vfs.Ino)
	}{
		{"a range is made", false, nil, func(h *heldRotation, a, _, _ vfs.Ino) { h.reserve(a) }},
		{"one that is a file's own again is shared", true,
			func(h *heldRotation, _, b, _ vfs.Ino) { h.overwriteAll(b); h.restamp() },
			func(h *heldRotation, a, _, c vfs.Ino) { share(h.t, h.v, a, 0, c, 0, bufferBytes) }},
		{"one becomes a file's own", true, nil,
			func(h *heldRotation, _, b, _ vfs.Ino) { h.overwriteAll(b); h.restamp() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReserved(t, 80<<20)
			data := noise(rand.New(rand.NewPCG(7, 9)), bufferBytes)
			a, b, other := writeFile(t, r.v, "a", data), writeFile(t, r.v, "b", nil), writeFile(t, r.v, "c", nil)
			if c.before {
				ok(t, r.v.Fallocate(crashReq, a, vfs.FallocKeepSize, 0, pageBytes))
			}
			share(t, r.v, a, 0, b, 0, bufferBytes)
			ok(t, r.v.Sync(vfs.RootIno))
			h := holdRotation(r)
			step := <-h.steps
			// Here the test makes that step.
			l := look{limit: 1000}
			target := r.v.rot.target.Load()
			_, err := r.v.rot.collectShared(&l, target)
			ok(t, err)
			if c.look != nil {
				c.look(h, a, b, other)
			}
			m := mover{v: r.v, target: target, data: make([]byte, maxSegments*pageBytes)}
			old, err := m.load(l.refs)
			ok(t, err)
			c.meanwhile(h, a, b, other)
			var left []sharedRef
			ok(t, r.v.inGate(func() error {
				left, err = m.move(old)
				return err
			}))
			if len(old) == 0 || len(left) > 0 {
				t.Fatalf("%d references were found, %d were left", len(old), len(left))
			}
			got := make([]byte, bufferBytes)
			if _, err := r.v.Read(a, 0, got); err != nil || !bytes.Equal(got, data) {
				t.Error("another content", err)
			}
			h.finish(step)
		})
	}
}

// Between two steps all that have the copy are overwritten, but for one file. That
// one's blocks are not owed then, nor those of the last file that is to change: it
// must not come to share them.
func TestRotateReserveCopy(t *testing.T) {
	const files = shares.Step + 1
	last, has := files-1, files-2
	for _, c := range []struct {
		name          string
		before, after []int // files that are reserved from the start, and after the first step
	}{
		{"the file that has it reserves", nil, []int{has}},
		{"the file that has it was reserved", []int{has}, nil},
		{"the last file reserves", nil, []int{last}},
		{"the last file was reserved", []int{last}, nil},
		{"both", []int{has, last}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReserved(t, 80<<20)
			data := noise(rand.New(rand.NewPCG(8, 9)), bufferBytes)
			inos := []vfs.Ino{writeFile(t, r.v, "0", data)}
			for i := 1; i < files; i++ {
				inos = append(inos, writeFile(t, r.v, fmt.Sprint(i), nil))
			}
			for _, i := range c.before {
				ok(t, r.v.Fallocate(crashReq, inos[i], vfs.FallocKeepSize, 0, pageBytes))
			}
			for _, ino := range inos[1:] {
				share(t, r.v, inos[0], 0, ino, 0, bufferBytes)
			}
			ok(t, r.v.Sync(vfs.RootIno))
			h := holdRotation(r)
			close(<-h.steps)
			step := <-h.steps
			epochs := map[uint32]int{}
			for _, ino := range inos {
				es, err := r.v.data.extents(uint64(ino), 0, 1, 1)
				ok(t, err)
				epochs[es[0].Epoch]++
			}
			if epochs[1] != 1 || epochs[2] != shares.Step {
				t.Fatalf("files by epoch: %v", epochs)
			}
			h.overwriteAll(inos[:has]...)
			for _, i := range c.after {
				h.reserve(inos[i])
			}
			h.restamp()
			if n := r.v.ranges.owed.Load(); n != 0 {
				t.Fatalf("%d blocks are owed", n)
			}
			h.finish(step)
			r.v = mustOpen(t, r.dev, Options{CommitInterval: -1, Memory: minMemory})
			for _, i := range []int{has, last} {
				got := make([]byte, bufferBytes)
				if _, err := r.v.Read(inos[i], 0, got); err != nil || !bytes.Equal(got, data) {
					t.Error("another content", i, err)
				}
			}
			mustClose(t, r.v)
		})
	}
}

// A file reserves its range while the rotation is at its extent, which was its own when
// the call counted what it would be owed: it still is when the range is made.
func TestRotateReserveCounted(t *testing.T) {
	r := newReserved(t, 80<<20)
	data := noise(rand.New(rand.NewPCG(10, 9)), bufferBytes)
	inos := []vfs.Ino{writeFile(t, r.v, "0", data)}
	for i := range shares.Step {
		inos = append(inos, writeFile(t, r.v, fmt.Sprint(i+1), nil))
		share(t, r.v, inos[0], 0, inos[i+1], 0, bufferBytes)
	}
	ok(t, r.v.Sync(vfs.RootIno))
	h := holdRotation(r)
	close(<-h.steps)
	step := <-h.steps
	ok(t, r.v.keys.requireFeature(layout.FeatureReserved))
	const has = shares.Step - 1
	h.overwriteAll(inos[:has]...)
	in, err := r.v.table.inode(inos[has])
	ok(t, err)
	in.mu.Lock()
	f := falloc{v: r.v, req: crashReq, in: in, mode: vfs.FallocKeepSize | layout.FallocReserve, end: pageBytes}
	f.room, err = f.takeRoom()
	ok(t, err)
	if n := f.room.hold - metaFor(1, 1, true); n != 0 {
		t.Fatalf("%d blocks would be owed", n)
	}
	close(step)
	for v := r.v; ; { // until it has taken the last file
		es, err := v.data.extents(uint64(inos[shares.Step]), 0, 1, 1)
		ok(t, err)
		if es[0].Epoch == 2 {
			break
		}
		select {
		case s := <-h.steps:
			close(s)
		case <-time.After(time.Millisecond):
		}
	}
	err = f.steps(0)
	r.v.adm.done(f.room)
	in.mu.Unlock()
	r.v.table.put(in)
	ok(t, err)
	if n := r.v.ranges.owed.Load(); n != 0 {
		t.Errorf("%d blocks are owed", n)
	}
	h.finish(make(chan struct{}))
}
