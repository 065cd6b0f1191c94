package volume

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// shreddable is a volume with three keys, and the bytes of its slots.
func shreddable(t testing.TB) (dev *device.Mem, keys []crypto.Credential, slots [][]byte) {
	t.Helper()
	dev = device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1})
	pub, recovery := recoveryKey(t)
	second := secretKey(t, 2)
	for _, k := range []Key{second, pub} {
		_, err := v.AddKey(k)
		ok(t, err)
	}
	change(t, v, "f")
	for i := range 3 {
		slots = append(slots, v.keys.header.Slots[i].Sealed)
	}
	mustClose(t, v)
	return dev, []crypto.Credential{testKey(t).Credential, second.Credential, recovery.Credential}, slots
}

// gone fails if a device holds a key slot, or anything opens it.
func gone(t testing.TB, dev *device.Mem, keys []crypto.Credential, slots [][]byte) {
	t.Helper()
	for _, off := range []int64{layout.HeaderOffsetA, layout.HeaderOffsetB} {
		b := make([]byte, layout.HeaderBytes)
		_, err := dev.ReadAt(b, off)
		ok(t, err)
		for i, s := range slots {
			if bytes.Contains(b, s[:40]) {
				t.Fatalf("slot %d is still at %d", i, off)
			}
		}
	}
	for i, k := range keys {
		for _, ro := range []bool{true, false} {
			if _, err := openWith(t, dev, k, ro); !errors.Is(err, ErrShredded) {
				t.Fatalf("key %d: %v", i, err)
			}
		}
	}
	if _, err := check.Run(dev, check.Options{Credential: keys[0]}); !errors.Is(err, ErrShredded) {
		t.Fatal(err)
	}
}

func TestShred(t *testing.T) {
	dev, keys, slots := shreddable(t)
	r, err := Shred(dev)
	ok(t, err)
	gone(t, dev, keys, slots)
	b, err := json.Marshal(r)
	ok(t, err)
	h, err := ReadHeader(dev)
	ok(t, err)
	if len(r.Slots) != 6 || len(r.Copies) != 2 || r.Volume != h.ID.String() || r.Sequence != h.Sequence || len(h.Slots) != 0 || !r.Copies[0].Discarded ||
		r.Copies[0].SHA256 != r.Copies[1].SHA256 || r.Slots[2].Type != "recovery" {
		t.Fatalf("%s", b)
	}
	again, err := Shred(dev)
	if err != nil || len(again.Slots) != 0 {
		t.Fatal(again, err)
	}
	gone(t, dev, keys, slots)
	if _, err := Shred(device.NewMem(80 << 20)); !errors.Is(err, ErrNotSealvol) {
		t.Fatal(err)
	}
}

// A volume in use is gone as well, and nothing of it is written any more.
func TestShredMounted(t *testing.T) {
	dev, keys, slots := shreddable(t)
	v := mustOpen(t, dev, Options{CommitInterval: -1})
	a, err := v.Mknod(crashReq, vfs.RootIno, "g", 0o600, 0)
	ok(t, err)
	r, err := v.Shred()
	if err != nil || len(r.Slots) != 6 {
		t.Fatal(r, err)
	}
	if _, err := v.Write(crashReq, a.Ino, 0, []byte("late"), false); !errors.Is(err, vfs.ErrReadOnly) || !errors.Is(err, ErrShredded) {
		t.Fatal(err)
	}
	if _, err := v.AddKey(secretKey(t, 7)); !errors.Is(err, vfs.ErrReadOnly) {
		t.Fatal(err)
	}
	if err := v.Close(); err == nil {
		t.Fatal("closed as if all were well")
	}
	gone(t, dev, keys, slots)
}

// What the device does not do is told; what it does not write is an error.
func TestShredFaults(t *testing.T) {
	mem, keys, slots := shreddable(t)
	dev := device.NewFault(mem, func(_ int, op device.Op, _ int64, _ int) error {
		if op == device.OpDiscard {
			return syscall.EOPNOTSUPP
		}
		return nil
	})
	r, err := Shred(dev)
	if err != nil || r.Copies[0].Discarded || r.Copies[1].DiscardError == "" {
		t.Fatal(r, err)
	}
	gone(t, mem, keys, slots)
	calls := dev.Calls()
	for at := range calls {
		mem, _, _ := shreddable(t)
		hit := false
		dev := device.NewFault(mem, func(n int, op device.Op, _ int64, _ int) error {
			if n == at && op != device.OpDiscard {
				hit = true
				return syscall.EIO
			}
			return nil
		})
		// One copy that cannot be read at first is no reason to leave the other.
		if _, err := Shred(dev); hit && at > 1 && !errors.Is(err, vfs.ErrIO) {
			t.Fatalf("call %d: %v", at, err)
		}
	}
}

// A cut leaves a volume that opens, or one that is shredded; a repetition ends it.
func TestCutShred(t *testing.T) {
	base, keys, slots := shreddable(t)
	rng := rand.New(rand.NewPCG(5, 5))
	probe := base.Clone()
	before := probe.Writes()
	_, err := Shred(probe)
	ok(t, err)
	for at := 1; at <= probe.Writes()-before; at++ {
		dev := base.Clone()
		dev.CutAfter(at)
		_, cutErr := Shred(dev)
		dev.Cut()
		for i := range 6 {
			img := dev.Crash([]device.CrashMode{device.CrashLoseAll, device.CrashKeepAll, device.CrashMix}[min(i, 2)], rng)
			states := map[bool]int{}
			for _, k := range keys {
				err := opens(t, img, k)
				if err != nil && !errors.Is(err, ErrShredded) {
					t.Fatalf("cut after call %d: %v", at, err)
				}
				states[err == nil]++
			}
			if len(states) != 1 || cutErr == nil && states[true] > 0 {
				t.Fatal(fmt.Sprint("cut after call ", at, ": ", states, cutErr))
			}
			r, err := Shred(img)
			ok(t, err)
			if states[true] > 0 && len(r.Slots) == 0 {
				t.Fatalf("%+v", r)
			}
			gone(t, img, keys, slots)
		}
	}
}
