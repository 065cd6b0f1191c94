package volume

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

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
		opensRotated(t, dev, c, r.state())
	}
}

// opensRotated wants a key to open a volume that was rotated once, which holds what it held.
func opensRotated(t *testing.T, dev *device.Mem, c crypto.Credential, want modelState) {
	t.Helper()
	ok(t, cleanWith(dev, c))
	v, err := openWith(t, dev, c, false)
	ok(t, err)
	got, err := readTree(v)
	ok(t, err)
	if !sameState(got, want) {
		t.Fatal(diffState(got, want))
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

// The maps of regions that nobody changes are written again, too.
func TestRotateDataKeySpace(t *testing.T) {
	dev := device.NewMem(3 << 30)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	for i := range uint64(20) {
		ok(t, v.space.Touch(i))
	}
	ok(t, v.com.commitAll())
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
	t.Run("dropped", rotateDropped)
	t.Run("slots change meanwhile", rotateSlotsChange)
	t.Run("what a slot becomes is lost", rotateSlotLost)
}

// threeKeys is a volume with three keys, of which testKey is the first.
func threeKeys(t *testing.T) (dev *device.Mem, v *Volume, second, third Key) {
	t.Helper()
	dev = device.NewMem(80 << 20)
	mustFormat(t, dev)
	v = mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	second, third = secretKey(t, 2), secretKey(t, 3)
	for _, k := range []Key{second, third} {
		_, err := v.AddKey(k)
		ok(t, err)
	}
	change(t, v, "f")
	return dev, v, second, third
}

// rotateDropped rotates with one of three keys, and gives up the others.
func rotateDropped(t *testing.T) {
	dev, v, second, third := threeKeys(t)
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
}

// rotateSlotsChange adds one key and removes another during a rotation.
func rotateSlotsChange(t *testing.T) {
	dev, v, second, third := threeKeys(t)
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
}

// rotateSlotLost loses what the rotation prepared for two slots. It waits for their keys.
func rotateSlotLost(t *testing.T) {
	dev, v, second, third := threeKeys(t)
	stop := blockRotation(v)
	all := []crypto.Credential{testKey(t).Credential, second.Credential, third.Credential}
	_, err := v.RotateDataKey(RotateOptions{Keys: all, BytesPerSecond: -1})
	ok(t, err)
	ok(t, v.keys.change(func() error { return v.rot.dropNext([]int{0, 2}) }))
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
	if err := VerifyAnchor(dev, testCred(t), a); !errors.Is(err, ErrForked) || !strings.Contains(err.Error(), "no longer has") {
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

// What cannot be read keeps the old key, and says so; once it is gone the
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
	es, err := v.data.extents(uint64(a.Ino), 0, 100, 1)
	ok(t, err)
	dev.Corrupt(int64(es[0].Addr)+layout.BlockBytes, func(b []byte) { b[0] ^= 1 })
	_, err = v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{testKey(t).Credential}, BytesPerSecond: -1})
	ok(t, err)
	if s := rotated(t, v); s.Phase != RotationWaiting || !strings.Contains(s.Waits, fmt.Sprintf("inode %d at 0", a.Ino)) || len(s.Epochs) != 2 {
		t.Fatalf("%+v", s)
	}
	ok(t, v.Unlink(crashReq, vfs.RootIno, "f"))
	v.Forget(a.Ino)
	v.background.reaper.wait()
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
	ok(t, v.com.commitAll())
	if !v.rot.current().Again {
		t.Fatal("an old record went unnoticed")
	}
	v.durable.mu.Lock()
	kept := v.durable.root.Rotation
	v.durable.mu.Unlock()
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
