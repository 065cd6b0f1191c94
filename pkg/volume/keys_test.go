package volume

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// secretKey is a key whose bytes follow from n; testCred is another.
func secretKey(t testing.TB, n byte) Key {
	t.Helper()
	k, err := crypto.NewKey(bytes.Repeat([]byte{n}, crypto.KeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	c := crypto.SecretCredential(k)
	t.Cleanup(c.Erase)
	return Key{Recipient: c, Credential: c}
}

func testKey(t testing.TB) Key {
	c := testCred(t)
	return Key{Recipient: c, Credential: c}
}

func passphraseKey(t testing.TB, text string) Key {
	t.Helper()
	c, err := crypto.PassphraseCredential([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Erase)
	return Key{Recipient: c, Credential: c}
}

func recoveryKey(t testing.TB) (pub, both Key) {
	t.Helper()
	s, err := crypto.GenerateRecovery(crypto.SuiteXChaCha20Poly1305)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Erase)
	r, err := s.Recipient()
	if err != nil {
		t.Fatal(err)
	}
	return Key{Recipient: r}, Key{Recipient: r, Credential: s}
}

// openWith opens a volume with any key.
func openWith(t testing.TB, dev device.Device, c crypto.Credential, readOnly bool) (*Volume, error) {
	t.Helper()
	return Open(dev, Options{Credential: c, CommitInterval: -1, Memory: minMemory, ReadOnly: readOnly})
}

func opens(t testing.TB, dev device.Device, c crypto.Credential) error {
	t.Helper()
	v, err := openWith(t, dev, c, true)
	if err == nil {
		err = v.Close()
	}
	return err
}

// Every kind of key is added to a mounted volume, opens it, and is removed.
func TestKeysOfAllKinds(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1})
	a, err := v.Mknod(crashReq, vfs.RootIno, "f", 0o600, 0)
	ok(t, err)
	_, err = v.Write(crashReq, a.Ino, 0, []byte("content"), false)
	ok(t, err)
	pub, recovery := recoveryKey(t)
	phrase, second := passphraseKey(t, "correct horse"), secretKey(t, 9)
	for i, k := range []Key{phrase, pub, second} {
		slot, err := v.AddKey(k)
		ok(t, err)
		if slot != i+1 {
			t.Fatalf("slot %d, want %d", slot, i+1)
		}
		if n, err := v.AddKey(k); !errors.Is(err, ErrKeyExists) || n != slot {
			t.Fatalf("added twice: slot %d, %v", n, err)
		}
	}
	slots, epochs := v.Keys()
	want := "[{0 1 1  true} {1 4 1  false} {2 3 1 " + Fingerprint(pub.Recipient.(*crypto.RecoveryRecipient)) + " false} {3 1 1  false}] [1]"
	if got := fmt.Sprint(slots, epochs); got != want {
		t.Fatalf("%s\n%s", got, want)
	}
	for _, c := range []crypto.Credential{testKey(t).Credential, phrase.Credential, recovery.Credential, second.Credential} {
		ok(t, opens(t, dev.Clone(), c))
	}
	// Mounted by one key, all others and that one are removed.
	ok(t, v.RemoveKey(1, false))
	ok(t, v.RemoveKey(2, false))
	ok(t, v.RemoveKey(0, false))
	if err := v.RemoveKey(1, false); !errors.Is(err, ErrNoSuchKey) {
		t.Fatal(err)
	}
	if err := v.RemoveKey(3, false); !errors.Is(err, ErrLastKey) {
		t.Fatal(err)
	}
	_, err = v.Write(crashReq, a.Ino, 7, []byte(" more"), false)
	ok(t, err)
	mustClose(t, v)
	for _, c := range []crypto.Credential{testKey(t).Credential, phrase.Credential, recovery.Credential} {
		if err := opens(t, dev, c); !errors.Is(err, ErrWrongKey) {
			t.Fatalf("a removed key: %v", err)
		}
	}
	v, err = openWith(t, dev, second.Credential, false)
	ok(t, err)
	b := make([]byte, 20)
	if n, err := v.Read(a.Ino, 0, b); err != nil || string(b[:n]) != "content more" {
		t.Fatalf("%q %v", b[:n], err)
	}
	if err := v.RemoveKey(3, true); err != nil {
		t.Fatal(err)
	}
	mustClose(t, v)
	if err := opens(t, dev, second.Credential); !errors.Is(err, ErrShredded) {
		t.Fatal(err)
	}
}

func TestKeysReadOnlyAndFull(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{ReadOnly: true})
	_, addErr := v.AddKey(secretKey(t, 1))
	_, rotErr := v.RotateKey(t.Context(), testKey(t).Credential, secretKey(t, 1))
	for _, err := range []error{addErr, rotErr, v.RemoveKey(0, true)} {
		if !errors.Is(err, vfs.ErrReadOnly) {
			t.Fatal(err)
		}
	}
	mustClose(t, v)
	v = mustOpen(t, dev, Options{CommitInterval: -1})
	for i := 1; i < crypto.Slots; i++ {
		_, err := v.AddKey(secretKey(t, byte(i)))
		ok(t, err)
	}
	if _, err := v.AddKey(secretKey(t, 99)); !errors.Is(err, ErrNoFreeSlot) {
		t.Fatal(err)
	}
	mustClose(t, v)
	ok(t, opens(t, dev, secretKey(t, 15).Credential))
}

// An older copy of the header that is put back opens nothing.
func TestRemovedKeyCanNotComeBack(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1})
	old := secretKey(t, 1)
	slot, err := v.AddKey(old)
	ok(t, err)
	before := make([]byte, layout.HeaderBytes)
	_, err = dev.ReadAt(before, layout.HeaderOffsetA)
	ok(t, err)
	ok(t, v.RemoveKey(slot, false))
	mustClose(t, v)
	for name, offs := range map[string][]int64{"A": {layout.HeaderOffsetA}, "B": {layout.HeaderOffsetB}, "both": {layout.HeaderOffsetA, layout.HeaderOffsetB}} {
		img := dev.Clone()
		for _, off := range offs {
			_, err := img.WriteAt(before, off)
			ok(t, err)
		}
		if err := opens(t, img, old.Credential); !errors.Is(err, ErrForged) {
			t.Errorf("copy %s put back: %v", name, err)
		}
		if name == "both" {
			continue
		}
		// Whoever has a key of today is not disturbed, and mends it.
		v := mustOpen(t, img, Options{CommitInterval: -1})
		mustClose(t, v)
		if err := opens(t, img, old.Credential); !errors.Is(err, ErrWrongKey) {
			t.Errorf("copy %s, mended: %v", name, err)
		}
	}
}

func TestRotateKey(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1})
	first, second := testKey(t), secretKey(t, 2)
	if _, err := v.RotateKey(t.Context(), secretKey(t, 7).Credential, second); !errors.Is(err, ErrWrongKey) {
		t.Fatal(err)
	}
	if _, err := v.RotateKey(t.Context(), first.Credential, first); !errors.Is(err, ErrKeyExists) {
		t.Fatal(err)
	}
	c, err := v.RotateKey(t.Context(), first.Credential, second)
	if got := fmt.Sprint(c, err); got != "{1 true [0]} <nil>" {
		t.Fatal(got)
	}
	c, err = v.RotateKey(t.Context(), first.Credential, second) // again
	if got := fmt.Sprint(c, err); got != "{1 false []} <nil>" {
		t.Fatal(got)
	}
	// Resumed after the first half.
	third := passphraseKey(t, "three")
	_, err = v.AddKey(third)
	ok(t, err)
	c, err = v.RotateKey(t.Context(), second.Credential, third)
	if got := fmt.Sprint(c, err); got != "{0 false [1]} <nil>" {
		t.Fatal(got)
	}
	mustClose(t, v)
	for _, k := range []Key{first, second} {
		if err := opens(t, dev, k.Credential); !errors.Is(err, ErrWrongKey) {
			t.Fatal(err)
		}
	}
	ok(t, opens(t, dev, third.Credential))
	ok(t, cleanWith(dev, third.Credential))
}

// cleanWith is cleanErr for any key.
func cleanWith(dev device.Device, c crypto.Credential) error {
	rep, err := check.Run(dev, check.Options{Credential: c, Data: true})
	if err == nil && !rep.Clean {
		err = fmt.Errorf("check: %v", rep.Problems)
	}
	return err
}

// cutCase is a change of a volume that is cut at every write and flush.
type cutCase struct {
	prepare func(t *testing.T, dev *device.Mem)
	change  func(t *testing.T, dev device.Device) error // opens, changes, closes
	// judge looks at what a cut left; done tells that change had returned.
	judge func(dev *device.Mem, done bool) error
	step  int // of a long one: cut after each so many calls; where it begins is random
}

// run cuts the change after each of its device calls. In short mode, after some.
func (c *cutCase) run(t *testing.T, images int) {
	t.Helper()
	seed := *crashSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-crash.seed=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 3))
	base := device.NewMem(80 << 20)
	c.prepare(t, base)
	probe := base.Clone()
	before := probe.Writes()
	ok(t, c.change(t, probe))
	calls := probe.Writes() - before
	ok(t, c.judge(probe.Clone(), true))
	step := max(c.step, 1)
	if testing.Short() {
		step *= 5
	}
	t.Logf("%d calls", calls)
	for at := 1 + rng.IntN(step); at <= calls; at += step {
		dev := base.Clone()
		dev.CutAfter(at)
		err := c.change(t, dev)
		if err != nil && !errors.Is(err, device.ErrCrashed) && !errors.Is(err, vfs.ErrReadOnly) {
			t.Fatalf("cut after call %d of %d: %v", at, calls, err)
		}
		dev.Cut()
		for i := range images {
			mode := []device.CrashMode{device.CrashLoseAll, device.CrashKeepAll, device.CrashMix}[min(i, 2)]
			if err := c.judge(dev.Crash(mode, rng), err == nil); err != nil {
				t.Fatalf("cut after call %d of %d, image %d: %v", at, calls, i, err)
			}
		}
	}
}

// crashClose closes a volume whose change may have failed for a cut.
func crashClose(v *Volume, err error) error {
	return errors.Join(err, v.Close())
}

// keyVolume is the volume whose key slots are changed.
func keyVolume(t *testing.T, dev *device.Mem) {
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1})
	a, err := v.Mknod(crashReq, vfs.RootIno, "f", 0o600, 0)
	ok(t, err)
	_, err = v.Write(crashReq, a.Ino, 0, bytes.Repeat([]byte("x"), 100000), false)
	ok(t, err)
	mustClose(t, v)
}

// withVolume is a change for a cutCase, of a volume that k opens.
func withVolume(k Key, fn func(v *Volume) error) func(*testing.T, device.Device) error {
	return func(t *testing.T, dev device.Device) error {
		v, err := openWith(t, dev, k.Credential, false)
		if err != nil {
			return err
		}
		return crashClose(v, fn(v))
	}
}

// opensWhole opens an image for writing, as the next mount would, by each key that
// must open it; at least one of some must.
func opensWhole(t *testing.T, dev *device.Mem, all []Key, some []Key) error {
	n := 0
	for _, k := range some {
		if opens(t, dev, k.Credential) == nil {
			n++
			all = append(all, k)
		}
	}
	if len(some) > 0 && n == 0 {
		return errors.New("no key opens the volume")
	}
	for _, k := range all {
		img := dev.Clone()
		v, err := openWith(t, img, k.Credential, false)
		if err != nil {
			return err
		}
		if err := v.Close(); err != nil {
			return err
		}
		if err := cleanWith(img, k.Credential); err != nil {
			return err
		}
	}
	return nil
}

// refusesKey wants a key that was removed to open nothing.
func refusesKey(t *testing.T, dev *device.Mem, k Key) error {
	if err := opens(t, dev, k.Credential); !errors.Is(err, ErrWrongKey) && !errors.Is(err, ErrForged) {
		return fmt.Errorf("the removed key: %w", err)
	}
	return nil
}

// A cut anywhere in a change of the key slots leaves the old or the new ones;
// what was acknowledged stays, and the volume is whole.
func TestCutKeyChanges(t *testing.T) {
	t.Parallel()
	one, two := testKey(t), secretKey(t, 2)
	t.Run("add", func(t *testing.T) {
		c := cutCase{prepare: keyVolume, change: withVolume(one, func(v *Volume) error { _, err := v.AddKey(two); return err })}
		c.judge = func(dev *device.Mem, done bool) error {
			if done {
				return opensWhole(t, dev, []Key{one, two}, nil)
			}
			return opensWhole(t, dev, []Key{one}, nil)
		}
		c.run(t, 4)
	})
	prepared := func(t *testing.T, dev *device.Mem) {
		keyVolume(t, dev)
		ok(t, withVolume(one, func(v *Volume) error { _, err := v.AddKey(two); return err })(t, dev))
	}
	t.Run("remove", func(t *testing.T) {
		c := cutCase{prepare: prepared, change: withVolume(one, func(v *Volume) error { return v.RemoveKey(1, false) })}
		c.judge = func(dev *device.Mem, done bool) error {
			if done {
				if err := refusesKey(t, dev, two); err != nil {
					return err
				}
			}
			return opensWhole(t, dev, []Key{one}, []Key{one, two})
		}
		c.run(t, 4)
	})
	t.Run("rotate", func(t *testing.T) {
		rotate := func(v *Volume) error { _, err := v.RotateKey(t.Context(), one.Credential, two); return err }
		c := cutCase{prepare: keyVolume, change: withVolume(one, rotate)}
		c.judge = func(dev *device.Mem, done bool) error {
			if done {
				if err := refusesKey(t, dev, one); err != nil {
					return err
				}
				return opensWhole(t, dev, []Key{two}, nil)
			}
			if err := opensWhole(t, dev, nil, []Key{one, two}); err != nil {
				return err
			}
			// Repeated with whichever key opens, it ends.
			k := one
			if opens(t, dev, one.Credential) != nil {
				k = two
			}
			img := dev.Clone()
			if err := withVolume(k, rotate)(t, img); err != nil {
				return fmt.Errorf("repeated: %w", err)
			}
			return errors.Join(refusesKey(t, img, one), opensWhole(t, img, []Key{two}, nil))
		}
		c.run(t, 4)
	})
}

// A change that was cut and given up cannot be put back instead of a later one
// that has the same number.
func TestSequenceOfACutChangeIsNotUsedAgain(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	one, two := testKey(t), secretKey(t, 2)
	v := mustOpen(t, dev, Options{CommitInterval: -1})
	_, err := v.AddKey(two)
	ok(t, err)
	mustClose(t, v)
	// Removing the second key is cut after copy A.
	img := dev.Clone()
	v = mustOpen(t, img, Options{CommitInterval: -1})
	img.CutAfter(2)
	if v.RemoveKey(1, false) == nil || v.Close() == nil {
		t.Fatal("no cut")
	}
	img.Cut()
	img = img.Crash(device.CrashKeepAll, rand.New(rand.NewPCG(1, 1)))
	given := make([]byte, layout.HeaderBytes)
	_, err = img.ReadAt(given, layout.HeaderOffsetA)
	ok(t, err)
	// The second key opens copy B, and removes the first.
	v, err = openWith(t, img, two.Credential, false)
	ok(t, err)
	ok(t, v.RemoveKey(0, false))
	mustClose(t, v)
	for _, off := range []int64{layout.HeaderOffsetA, layout.HeaderOffsetB} {
		_, err = img.WriteAt(given, off)
		ok(t, err)
	}
	if err := opens(t, img, one.Credential); !errors.Is(err, ErrForged) {
		t.Fatalf("the first key is back: %v", err)
	}
}
