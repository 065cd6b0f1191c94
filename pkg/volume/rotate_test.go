package volume

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/header"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// oldKeys takes what a thief of the volume's keys has: all epochs of now.
func oldKeys(t testing.TB, v *Volume) []*crypto.EpochKeys {
	t.Helper()
	v.keys.mu.Lock()
	defer v.keys.mu.Unlock()
	var out []*crypto.EpochKeys
	for _, e := range v.keys.epochs {
		k, err := crypto.DeriveEpochKeys(v.keys.header.Suite, v.id, e.Epoch, e.VMK)
		ok(t, err)
		t.Cleanup(k.Erase)
		out = append(out, k)
	}
	return out
}

// theft tries stolen keys on all that a device holds of a volume's present state:
// header, root slots, log, and what the newest root reaches. It returns what they
// open.
func theft(dev *device.Mem, c crypto.Credential, stolen []*crypto.EpochKeys, mounts [][16]byte) (opened []string, err error) {
	u, keys, err := header.Unlock(dev, c, nil)
	if err != nil {
		return nil, err
	}
	defer crypto.EraseEpochs(u.Epochs)
	defer keys.Erase()
	store := &txn.Store{Dev: dev, Keys: keys}
	roots, _, err := store.ReadRoots()
	if err != nil {
		return nil, err
	}
	tell := func(format string, args ...any) { opened = append(opened, fmt.Sprintf(format, args...)) }
	sector, plain := make([]byte, layout.SectorBytes), make([]byte, crypto.RootBytes)
	for _, k := range stolen {
		for _, h := range []*layout.Header{u.Header} {
			if h.Verify(k) == nil {
				tell("header")
			}
		}
		for slot := range layout.RootSlots {
			for n := range 2 {
				if _, err := dev.ReadAt(sector, layout.RootCopyOff(slot, n)); err != nil {
					return nil, err
				}
				if k.OpenRoot(uint8(slot), sector, plain) == nil {
					tell("root slot %d, copy %d", slot, n)
				}
			}
		}
		root := roots[0].Root
		for at := range root.LogSectors {
			if _, err := dev.ReadAt(sector, int64(layout.LogOff+at*layout.SectorBytes)); err != nil {
				return nil, err
			}
			if zeros(sector) {
				continue
			}
			for _, m := range mounts {
				for seq := at; seq < at+4*root.LogSectors; seq += root.LogSectors {
					if k.OpenFrame(m, seq, sector, plain) == nil {
						tell("log frame %d", seq)
					}
				}
			}
		}
		try := func(what string, r *layout.Record) error {
			b := make([]byte, r.RunBytes())
			if err := store.ReadRun(r, 0, r.Count(), b); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			raw := make([]byte, r.RunBytes())
			if _, err := dev.ReadAt(raw, int64(r.Addr)); err != nil {
				return err
			}
			x := *r
			x.Epoch = k.Epoch()
			for i := range x.Count() {
				one := x.Slice(i, 1)
				off := int(one.Addr - x.Addr)
				if k.OpenSegments(&one.Extent, one.First, 1, b[:one.RunBytes()], raw[off:off+one.RunBytes()], one.Tags) == nil {
					tell("%s, epoch %d", what, r.Epoch)
				}
			}
			return nil
		}
		if err := eachRecord(store, root, try); err != nil {
			return nil, err
		}
	}
	return opened, nil
}

func zeros(b []byte) bool { return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) }

// eachRecord visits every extent that a root reaches.
func eachRecord(store *txn.Store, root *layout.Root, fn func(what string, r *layout.Record) error) error {
	var node func(p *layout.Pointer, tree uint64) error
	node = func(p *layout.Pointer, tree uint64) error {
		if err := fn(fmt.Sprintf("page of tree %d", tree), &p.Record); err != nil {
			return err
		}
		b, err := store.ReadNode(p)
		if err != nil {
			return err
		}
		n, err := layout.DecodeNode(b, tree, p.Level)
		if err != nil {
			return err
		}
		for i := range n.Count() {
			if n.Level() > 0 {
				c, err := layout.GetPointer(n.PointerBytesAt(i), tree)
				if err == nil {
					err = node(&c, tree)
				}
				if err != nil {
					return err
				}
			} else if tree == layout.TreeFS && n.Key(i).Type == layout.KeyExtent {
				e, err := layout.DecodeFileExtent(n.Value(i))
				if err == nil {
					err = fn(fmt.Sprintf("inode %d, sector %d", n.Key(i).Obj, n.Key(i).Sub), &e.Record)
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	}
	for id := range root.Trees {
		if p := &root.Trees[id]; !p.IsZero() {
			if err := node(p, uint64(id)); err != nil {
				return err
			}
		}
	}
	for i := range root.FreeLists {
		if p := &root.FreeLists[i]; !p.IsZero() {
			if err := fn("free list", &p.Record); err != nil {
				return err
			}
		}
	}
	return nil
}

func mountOf(v *Volume) [16]byte {
	v.stateMu.Lock()
	defer v.stateMu.Unlock()
	return v.root.MountID
}

func rotated(t testing.TB, v *Volume) RotationStatus {
	t.Helper()
	s, err := v.WaitRotation(t.Context(), nil)
	ok(t, err)
	return s
}

// After a rotation the stolen keys open nothing of what the volume holds, every
// key opens it, and it holds what it held.
func TestRotateDataKey(t *testing.T) {
	dev := device.NewMem(160 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	phrase := passphraseKey(t, "correct horse")
	pub, recovery := recoveryKey(t)
	for _, k := range []Key{phrase, pub} {
		_, err := v.AddKey(k)
		ok(t, err)
	}
	r := &crashRun{v: v, rng: rand.New(rand.NewPCG(1, 5)), states: []modelState{{files: map[string][]byte{}}}, inos: map[string]vfs.Ino{}}
	for range 600 {
		ok(t, r.step())
	}
	ok(t, v.Sync(vfs.RootIno))
	stolen := oldKeys(t, v)
	mounts := [][16]byte{mountOf(v)}
	if got, err := theft(dev, testCred(t), stolen, mounts); err != nil || len(got) < 20 {
		t.Fatalf("before, the keys open %d things: %v", len(got), err)
	}
	// Slots whose keys are not at hand are named, and nothing happens.
	if _, err := v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{testKey(t).Credential}}); !errors.Is(err, ErrKeyMissing) || !strings.HasSuffix(err.Error(), ": 1 (passphrase)") {
		t.Fatal(err)
	}
	if s := v.RotationStatus(); s.Phase != RotationNone || len(s.Epochs) != 1 {
		t.Fatalf("%+v", s)
	}
	all := []crypto.Credential{testKey(t).Credential, phrase.Credential}
	s, err := v.RotateDataKey(RotateOptions{Keys: all, BytesPerSecond: -1})
	if err != nil || s.Target != 2 {
		t.Fatalf("%+v %v", s, err)
	}
	for range 100 { // load, while it goes on
		ok(t, r.step())
	}
	s = rotated(t, v)
	if s.Phase != RotationNone || fmt.Sprint(s.Epochs) != "[2]" {
		t.Fatalf("%+v", s)
	}
	if v.store.Keys.Get(1) != nil {
		t.Fatal("the old epoch is in memory still")
	}
	for range 50 {
		ok(t, r.step())
	}
	ok(t, v.Sync(vfs.RootIno))
	if got, err := theft(dev, testCred(t), stolen, mounts); err != nil || len(got) > 0 {
		t.Fatalf("the old keys open %d things: %v %v", len(got), got[:min(len(got), 20)], err)
	}
	mustClose(t, v)
	for _, c := range []crypto.Credential{testCred(t), phrase.Credential, recovery.Credential} {
		ok(t, cleanWith(dev, c))
		v, err := openWith(t, dev, c, false)
		ok(t, err)
		got, err := readTree(v)
		ok(t, err)
		if !sameState(got, r.state()) {
			t.Fatal(diffState(got, r.state()))
		}
		slots, epochs := v.Keys()
		for _, s := range slots {
			if s.Epochs != 1 {
				t.Fatalf("%+v", s)
			}
		}
		if fmt.Sprint(epochs) != "[2]" || v.RotationStatus().Phase != RotationNone {
			t.Fatal(epochs)
		}
		mustClose(t, v)
	}
}

// The maps of regions that nobody changes are written again, too.
func TestRotateDataKeySpace(t *testing.T) {
	dev := device.NewMem(3 << 30)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	for i := range uint64(20) {
		ok(t, v.space.Touch(i))
	}
	ok(t, v.commitAll())
	stolen := oldKeys(t, v)
	_, err := v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{testKey(t).Credential}, BytesPerSecond: -1})
	ok(t, err)
	if s := rotated(t, v); s.Phase != RotationNone {
		t.Fatalf("%+v", s)
	}
	mustClose(t, v)
	if got, err := theft(dev, testCred(t), stolen, nil); err != nil || len(got) > 0 {
		t.Fatal(got, err)
	}
	ok(t, cleanErr(dev))
}

// A frozen volume keeps its header and its roots; what was asked for happens after the thaw.
func TestKeysFrozen(t *testing.T) { synctest.Test(t, keysFrozen) }

func keysFrozen(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	change(t, v, "f")
	f, err := v.Freeze(t.Context(), time.Hour)
	ok(t, err)
	before := dev.Writes()
	done := make(chan error, 3)
	go func() { _, err := v.AddKey(secretKey(t, 1)); done <- err }()
	go func() { _, err := v.OfferAnchor(); done <- err }()
	go func() {
		_, err := v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{testKey(t).Credential}, Drop: true, BytesPerSecond: -1})
		done <- err
	}()
	synctest.Wait()
	if n := dev.Writes() - before; n > 0 || len(done) > 0 {
		t.Fatalf("%d writes while frozen, %d calls have returned", n, len(done))
	}
	f.Thaw()
	for range 3 {
		ok(t, <-done)
	}
	a := offered(t, v)
	ok(t, v.ConfirmAnchor(*a))
	if s := endOf(t, v); s.Phase != RotationNone {
		t.Fatalf("%+v", s)
	}
	mustClose(t, v)
	ok(t, VerifyAnchor(dev, testCred(t), a))
}

// A slot that nobody has the key of can be given up, or its key be brought later.
func TestRotateDataKeySlots(t *testing.T) {
	format := func(t *testing.T) (*device.Mem, *Volume, Key, Key) {
		dev := device.NewMem(80 << 20)
		mustFormat(t, dev)
		v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
		second, third := secretKey(t, 2), secretKey(t, 3)
		for _, k := range []Key{second, third} {
			_, err := v.AddKey(k)
			ok(t, err)
		}
		change(t, v, "f")
		return dev, v, second, third
	}
	t.Run("dropped", func(t *testing.T) {
		dev, v, second, third := format(t)
		if _, err := v.RotateDataKey(RotateOptions{Drop: true}); !errors.Is(err, ErrLastKey) {
			t.Fatal(err)
		}
		s, err := v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{second.Credential}, Drop: true, BytesPerSecond: -1})
		if err != nil || fmt.Sprint(s.Dropped) != "[0 2]" {
			t.Fatalf("%+v %v", s, err)
		}
		if s := rotated(t, v); s.Phase != RotationNone {
			t.Fatalf("%+v", s)
		}
		mustClose(t, v)
		for _, k := range []Key{testKey(t), third} {
			if err := opens(t, dev, k.Credential); !errors.Is(err, ErrWrongKey) {
				t.Fatal(err)
			}
		}
		ok(t, cleanWith(dev, second.Credential))
	})
	t.Run("slots change meanwhile", func(t *testing.T) {
		dev, v, second, third := format(t)
		stop := blockRotation(v)
		all := []crypto.Credential{testKey(t).Credential, second.Credential, third.Credential}
		_, err := v.RotateDataKey(RotateOptions{Keys: all, BytesPerSecond: -1})
		ok(t, err)
		fourth := secretKey(t, 4)
		_, err = v.AddKey(fourth)
		ok(t, err)
		ok(t, v.RemoveKey(1, false))
		mustClose(t, v)
		stop()
		v, err = openWith(t, dev, fourth.Credential, false)
		ok(t, err)
		if s := rotated(t, v); s.Phase != RotationNone {
			t.Fatalf("%+v", s)
		}
		mustClose(t, v)
		for _, k := range []Key{testKey(t), third, fourth} {
			ok(t, cleanWith(dev, k.Credential))
		}
		if err := opens(t, dev, second.Credential); !errors.Is(err, ErrWrongKey) {
			t.Fatal(err)
		}
	})
	t.Run("what a slot becomes is lost", func(t *testing.T) {
		dev, v, second, third := format(t)
		stop := blockRotation(v)
		all := []crypto.Credential{testKey(t).Credential, second.Credential, third.Credential}
		_, err := v.RotateDataKey(RotateOptions{Keys: all, BytesPerSecond: -1})
		ok(t, err)
		ok(t, v.changeKeys(func() error { return v.dropNext([]int{0, 2}) }))
		stop()
		s := rotated(t, v)
		if s.Phase != RotationWaiting || !strings.Contains(s.Waits, "0 (secret) and 2 (secret)") || len(s.Epochs) != 2 {
			t.Fatalf("%+v", s)
		}
		if _, err := v.RotateDataKey(RotateOptions{Keys: all[:2]}); !errors.Is(err, ErrKeyMissing) || !strings.HasSuffix(err.Error(), ": 2 (secret)") {
			t.Fatal(err)
		}
		_, err = v.RotateDataKey(RotateOptions{Keys: all})
		ok(t, err)
		if s := rotated(t, v); s.Phase != RotationNone {
			t.Fatalf("%+v", s)
		}
		mustClose(t, v)
		for _, c := range all {
			ok(t, cleanWith(dev, c))
		}
	})
}

// blockRotation keeps a rotation from beginning its walk until the function that it returns is called.
func blockRotation(v *Volume) (release func()) {
	v.rot.hold = make(chan struct{})
	var once sync.Once
	return func() { once.Do(func() { close(v.rot.hold) }) }
}

// The old epoch stays until the anchor that is kept is of the new one.
func TestRotateDataKeyWithAnchor(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	change(t, v, "f")
	a := offered(t, v)
	ok(t, v.ConfirmAnchor(*a))
	_, err := v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{testKey(t).Credential}, BytesPerSecond: -1})
	ok(t, err)
	if s := rotated(t, v); s.Phase != RotationWaiting || !strings.Contains(s.Waits, "anchor") {
		t.Fatalf("%+v", s)
	}
	ok(t, VerifyAnchor(dev, testCred(t), a))
	b := offered(t, v)
	if b.Epoch != 2 {
		t.Fatal(b.Epoch)
	}
	ok(t, v.ConfirmAnchor(*b))
	if s := endOf(t, v); s.Phase != RotationNone {
		t.Fatalf("%+v", s)
	}
	mustClose(t, v)
	ok(t, VerifyAnchor(dev, testCred(t), b))
	if err := VerifyAnchor(dev, testCred(t), a); !errors.Is(err, ErrForked) || !strings.Contains(err.Error(), "given up") {
		t.Fatal(err)
	}
	ok(t, cleanErr(dev))
}

// endOf waits for the end of a rotation that has been waiting for something.
func endOf(t testing.TB, v *Volume) RotationStatus {
	t.Helper()
	r := &v.rot
	r.mu.Lock()
	for r.running && r.phase != RotationNone {
		r.changed.Wait()
	}
	r.mu.Unlock()
	return v.RotationStatus()
}

// What can not be read keeps the old key, and says so; once it is gone the
// rotation ends.
func TestRotateDataKeyDamage(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	a, err := v.Mknod(crashReq, vfs.RootIno, "f", 0o600, 0)
	ok(t, err)
	_, err = v.Write(crashReq, a.Ino, 0, make([]byte, 100000), false)
	ok(t, err)
	mustClose(t, v)
	v = mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	es, err := v.extents(uint64(a.Ino), 0, 100, 1)
	ok(t, err)
	dev.Corrupt(int64(es[0].Addr)+layout.SectorBytes, func(b []byte) { b[0] ^= 1 })
	_, err = v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{testKey(t).Credential}, BytesPerSecond: -1})
	ok(t, err)
	if s := rotated(t, v); s.Phase != RotationWaiting || !strings.Contains(s.Waits, fmt.Sprintf("inode %d at 0", a.Ino)) || len(s.Epochs) != 2 {
		t.Fatalf("%+v", s)
	}
	ok(t, v.Unlink(crashReq, vfs.RootIno, "f"))
	v.Forget(a.Ino)
	v.reaper.wait()
	_, err = v.RotateDataKey(RotateOptions{})
	ok(t, err)
	if s := rotated(t, v); s.Phase != RotationNone {
		t.Fatalf("%+v", s)
	}
	mustClose(t, v)
	ok(t, cleanErr(dev))
}

// On a full volume the rotation ends, and everything can be deleted meanwhile.
func TestRotateDataKeyFull(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	names := fill(t, v, 300_000, 10)
	names = append(names, fillMore(t, v)...)
	release := blockRotation(v)
	_, err := v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{testKey(t).Credential}, BytesPerSecond: -1})
	ok(t, err)
	done := make(chan error, 1)
	go func() {
		for _, n := range names[:len(names)/3] {
			a, err := v.Lookup(vfs.RootIno, n)
			if err == nil {
				err = v.Unlink(crashReq, vfs.RootIno, n)
			}
			if err != nil {
				done <- err
				return
			}
			v.Forget(a.Ino)
		}
		done <- nil
	}()
	release()
	if s := rotated(t, v); s.Phase != RotationNone {
		t.Fatalf("%+v", s)
	}
	ok(t, <-done)
	mustClose(t, v)
	ok(t, cleanErr(dev))
}

// fillMore takes the room that files too large for it have left.
func fillMore(t *testing.T, v *Volume) (names []string) {
	t.Helper()
	for {
		name := fmt.Sprint("small", len(names))
		a, err := v.Mknod(crashReq, vfs.RootIno, name, 0o600, 0)
		if err == nil {
			names = append(names, name)
			_, err = v.Write(crashReq, a.Ino, 0, make([]byte, 4096), false)
		}
		if errors.Is(err, vfs.ErrNoSpace) {
			ok(t, v.Sync(vfs.RootIno))
			return names
		}
		ok(t, err)
	}
}

// A record of the old epoch that comes back behind the walk is found.
func TestRotateDataKeyDisturbed(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	stop := blockRotation(v)
	_, err := v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{testKey(t).Credential}, BytesPerSecond: -1})
	ok(t, err)
	if v.rot.current().Again {
		t.Fatal("nothing happened yet")
	}
	v.rot.met(2)
	if v.rot.current().Again {
		t.Fatal("a new record counts as old")
	}
	v.rot.met(1)
	ok(t, v.commitAll())
	if !v.rot.current().Again {
		t.Fatal("an old record went unnoticed")
	}
	v.stateMu.Lock()
	kept := v.root.Rotation
	v.stateMu.Unlock()
	if !kept.Again {
		t.Fatal("the root does not know")
	}
	stop()
	if s := rotated(t, v); s.Phase != RotationNone {
		t.Fatalf("%+v", s)
	}
	mustClose(t, v)
	ok(t, cleanErr(dev))
}

// Power goes at any write of a rotation under load, again and again; in the end
// the volume holds a state that it went through, and the old keys open nothing.
func TestCrashRotation(t *testing.T) {
	seed := *crashSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	runs := 6
	if testing.Short() {
		runs = 2
	}
	for range runs {
		crashRotation(t, seed)
		seed++
	}
}

func crashRotation(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 31))
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	second := secretKey(t, 2)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	_, err := v.AddKey(second)
	ok(t, err)
	r := &crashRun{v: v, rng: rng, states: []modelState{{files: map[string][]byte{}}}, inos: map[string]vfs.Ino{}}
	for range 150 {
		ok(t, r.step())
	}
	ok(t, v.Sync(vfs.RootIno))
	stolen := oldKeys(t, v)
	mounts := [][16]byte{mountOf(v)}
	mustClose(t, v)
	r.synced = len(r.states) - 1
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("-crash.seed=%d: %s", seed, fmt.Sprintf(format, args...))
	}
	all := []crypto.Credential{testKey(t).Credential, second.Credential}
	under, ended := 0, 0 // cuts that found a rotation under way, and after it
	defer func() { t.Logf("-crash.seed=%d: %d cuts of a rotation, %d after it", seed, under, ended) }()
	for cut := 0; ; cut++ {
		c := all[rng.IntN(2)]
		last := cut == 25
		if !last {
			dev.CutAfter(1 + rng.IntN([]int{20, 60, 120, 250, 1500}[rng.IntN(5)]))
		}
		v, err := openWith(t, dev, c, false)
		var opErr error = err
		if err == nil {
			mounts = append(mounts, mountOf(v))
			switch _, epochs := v.Keys(); {
			case len(epochs) == 2:
				under++
			case epochs[0] == 1 || cut < 20:
				_, opErr = v.RotateDataKey(RotateOptions{Keys: all, BytesPerSecond: -1})
			default:
				ended++
			}
			got, rerr := readTree(v)
			if rerr == nil {
				rerr = r.adopt(v, got, fail)
			}
			if rerr == nil {
				for i := 0; opErr == nil && i < 60; i++ {
					opErr = r.step()
				}
				if opErr == nil && (last || rng.IntN(2) == 0) {
					var s RotationStatus
					s, opErr = v.WaitRotation(t.Context(), nil)
					switch {
					case opErr != nil || s.Phase == RotationNone:
					case dev.Alive():
						fail("%+v", s)
					default: // what it could not read
						opErr = device.ErrCrashed
					}
				}
				if opErr == nil {
					opErr = v.Sync(vfs.RootIno)
				}
				if opErr == nil {
					r.synced = len(r.states) - 1
				}
			} else {
				opErr = errors.Join(opErr, rerr)
			}
			_ = v.Close() // cut, as a rule
		}
		if opErr != nil && !errors.Is(opErr, device.ErrCrashed) && !errors.Is(opErr, vfs.ErrReadOnly) {
			fail("cut %d: %v", cut, opErr)
		}
		if last {
			if opErr != nil {
				fail("without a cut: %v", opErr)
			}
			break
		}
		dev.Cut()
		dev = dev.Crash(device.CrashMode(rng.IntN(3)), rng)
		if rng.IntN(3) == 0 {
			img := dev.Clone()
			ok(t, opens(t, img, all[rng.IntN(2)]))
		}
	}
	for _, c := range all {
		if err := cleanWith(dev, c); err != nil {
			fail("%v", err)
		}
	}
	got, err := theft(dev, all[0], stolen, mounts)
	if err != nil || len(got) > 0 {
		fail("the old keys open %v %v", got[:min(len(got), 20)], err)
	}
}

// The same, after each single write and flush of a small one, from its beginning
// to the end.
func TestCutRotation(t *testing.T) {
	second := secretKey(t, 2)
	all := []crypto.Credential{testKey(t).Credential, second.Credential}
	var stolen []*crypto.EpochKeys
	var want modelState
	var sectors int
	c := cutCase{step: 7}
	c.prepare = func(t *testing.T, dev *device.Mem) {
		mustFormat(t, dev)
		v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
		_, err := v.AddKey(second)
		ok(t, err)
		for i, n := range []int{10, 5000, 200000} {
			a, err := v.Mknod(crashReq, vfs.RootIno, fmt.Sprint("f", i), 0o600, 0)
			ok(t, err)
			_, err = v.Write(crashReq, a.Ino, 0, []byte(strings.Repeat("x", n)), false)
			ok(t, err)
			share(t, v, a.Ino, 0, writeFile(t, v, fmt.Sprint("g", i), nil), 0, uint64(n))
		}
		want, err = readTree(v)
		ok(t, err)
		stolen = oldKeys(t, v)
		sectors = len(dataSectors(t, v))
		mustClose(t, v)
	}
	rotate := func(v *Volume) error {
		if _, epochs := v.Keys(); len(epochs) == 1 && epochs[0] == 1 {
			if _, err := v.RotateDataKey(RotateOptions{Keys: all, BytesPerSecond: -1}); err != nil {
				return err
			}
		}
		s, err := v.WaitRotation(t.Context(), nil)
		if err == nil && s.Phase != RotationNone {
			err = fmt.Errorf("%+v", s)
		}
		return err
	}
	c.change = func(t *testing.T, dev device.Device) error {
		v, err := openWith(t, dev, all[0], false)
		if err != nil {
			return err
		}
		return crashClose(v, rotate(v))
	}
	c.judge = func(dev *device.Mem, done bool) error {
		for _, k := range all {
			if err := opens(t, dev, k); err != nil {
				return err
			}
		}
		v, err := openWith(t, dev, all[1], false)
		if err != nil {
			return err
		}
		if _, epochs := v.Keys(); done && (len(epochs) != 1 || epochs[0] != 2) {
			return fmt.Errorf("ended, and epochs are %v", epochs)
		}
		got, err := readTree(v)
		if err == nil && !sameState(got, want) {
			err = errors.New(diffState(got, want))
		}
		err = errors.Join(err, rotate(v))
		if n := len(dataSectors(t, v)); err == nil && n != sectors {
			err = fmt.Errorf("data takes %d sectors, %d before", n, sectors)
		}
		if err := errors.Join(err, v.Close()); err != nil {
			return err
		}
		if opened, err := theft(dev, all[0], stolen, nil); err != nil || len(opened) > 0 {
			return fmt.Errorf("the old keys open %v %w", opened, err)
		}
		return cleanWith(dev, all[0])
	}
	c.run(t, 3)
}

// adopt finds the state that a crash left among those that are possible, and goes
// on from there.
func (r *crashRun) adopt(v *Volume, got modelState, fail func(string, ...any)) error {
	for i := len(r.states) - 1; i >= r.synced; i-- {
		if sameState(got, r.states[i]) {
			r.v, r.states, r.synced = v, []modelState{r.states[i]}, 0
			r.inos, r.dirs = map[string]vfs.Ino{}, nil
			return r.learn(vfs.RootIno, "")
		}
	}
	fail("a state that never was, or an old one; against the last: %s", diffState(got, r.state()))
	return nil
}

// learn finds the inodes of all names.
func (r *crashRun) learn(dir vfs.Ino, prefix string) error {
	var ents []vfs.Dirent
	if err := r.v.ReadDir(dir, 0, false, func(d vfs.Dirent, _ *vfs.Attr) bool { ents = append(ents, d); return true }); err != nil {
		return err
	}
	for _, d := range ents {
		p := prefix + d.Name
		r.inos[p] = d.Ino
		if c, known := r.state().files[p]; known && c == nil {
			r.dirs = append(r.dirs, p)
			if err := r.learn(d.Ino, p+"/"); err != nil {
				return err
			}
		}
	}
	return nil
}
