package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// anchored opens a volume that has to follow from an anchor.
func anchored(t testing.TB, dev device.Device, a *Anchor, readOnly bool) (*Volume, error) {
	t.Helper()
	return Open(dev, Options{Credential: testCred(t), CommitInterval: -1, Memory: minMemory, Anchor: a, ReadOnly: readOnly})
}

// change writes something, durably.
func change(t testing.TB, v *Volume, name string) {
	t.Helper()
	_, err := v.Mknod(crashReq, vfs.RootIno, name, 0o600, 0)
	ok(t, err)
	ok(t, v.Sync(vfs.RootIno))
}

func offered(t testing.TB, v *Volume) *Anchor {
	t.Helper()
	a, err := v.OfferAnchor()
	ok(t, err)
	b, err := json.Marshal(a)
	ok(t, err)
	back, err := ParseAnchor(b)
	if err != nil || back != a {
		t.Fatalf("%s: %v", b, err)
	}
	return &a
}

func TestAnchor(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1})
	if _, ok := v.LastAnchor(); ok {
		t.Fatal("an anchor that nobody asked for")
	}
	change(t, v, "a")
	first := offered(t, v)
	old := dev.Clone() // what the anchor is of, and its successor
	if again := offered(t, v); *again != *first {
		t.Fatal("nothing changed, and the anchor did")
	}
	change(t, v, "b")
	second := offered(t, v)
	if second.Generation <= first.Generation {
		t.Fatal(first.Generation, second.Generation)
	}
	ok(t, v.ConfirmAnchor(*second))
	ok(t, v.ConfirmAnchor(*second))
	ok(t, v.ConfirmAnchor(*first)) // late
	change(t, v, "c")
	mustClose(t, v)
	last, used := v.LastAnchor()
	if !used || last.Generation <= second.Generation {
		t.Fatalf("%+v", last)
	}
	for _, a := range []*Anchor{first, second, &last} {
		v, err := anchored(t, dev.Clone(), a, false)
		if err != nil {
			t.Fatalf("generation %d: %v", a.Generation, err)
		}
		mustClose(t, v)
		ok(t, VerifyAnchor(dev, testCred(t), a))
		rep, err := check.Run(dev, check.Options{Credential: testCred(t), Anchor: a})
		if err != nil || !rep.Clean {
			t.Fatal(err, rep.Problems)
		}
	}
	// The device as it was: too old for what came after.
	refuseAnchor(t, "rolled back", old.Clone(), second, ErrRolledBack, fmt.Sprintf("the anchor's is %d", second.Generation))
	refuseAnchor(t, "rolled back", old.Clone(), &last, ErrRolledBack, "newest generation is")
	rep, err := check.Run(old, check.Options{Credential: testCred(t), Anchor: second})
	if err != nil || rep.Clean || rep.Problems[0].Where != "anchor" {
		t.Fatal(err, rep)
	}
	// Two futures of one past: neither follows from the other's anchor.
	fork := old.Clone()
	v, err = anchored(t, fork, first, false)
	ok(t, err)
	for i := range 20 {
		change(t, v, fmt.Sprint("fork", i))
	}
	mustClose(t, v)
	refuseAnchor(t, "forked", fork, second, ErrForked, fmt.Sprintf("does not follow from the anchored generation %d", second.Generation))
	refuseAnchor(t, "forked", fork, &last, ErrForked, "")
	other, _ := v.LastAnchor()
	if other.Generation <= last.Generation {
		t.Fatal("the fork is not ahead")
	}
	refuseAnchor(t, "the other way", dev.Clone(), &other, ErrRolledBack, "")
	same := *first
	same.Generation, same.MAC[0] = newestOf(t, old).Generation, 1
	refuseAnchor(t, "another root of that generation", old.Clone(), &same, ErrForked, "differs from the anchored one")
	refuseForeignAnchors(t, dev, first)
	ok(t, cleanErr(dev))
}

// refuseAnchor wants a device to be refused for an anchor, without a write, whoever looks at it.
func refuseAnchor(t *testing.T, what string, dev *device.Mem, a *Anchor, want error, text string) {
	t.Helper()
	before := dev.Writes()
	for _, ro := range []bool{false, true} {
		if _, err := anchored(t, dev, a, ro); !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := VerifyAnchor(dev, testCred(t), a); !errors.Is(err, want) {
		t.Errorf("%s: %v", what, err)
	}
	if n := dev.Writes() - before; n > 1 { // Open's flush
		t.Errorf("%s: %d writes to a device that was refused", what, n)
	}
}

// refuseForeignAnchors offers an anchor of the volume on dev to devices that are not this volume at
// all, and to the volume anchors that are not its own.
func refuseForeignAnchors(t *testing.T, dev *device.Mem, first *Anchor) {
	t.Helper()
	zeroed := device.NewMem(80 << 20)
	before := zeroed.Writes()
	if _, err := anchored(t, zeroed, first, false); !errors.Is(err, ErrOtherVolume) || !errors.Is(err, ErrNotSealvol) || zeroed.Writes() != before {
		t.Error("zeroed:", err)
	}
	mustFormat(t, zeroed)
	refuseAnchor(t, "formatted anew", zeroed, first, ErrOtherVolume, "but the device holds")
	k := secretKey(t, 3)
	ok(t, Format(zeroed, FormatOptions{Recipient: k.Recipient, Force: true}))
	refuseAnchor(t, "formatted anew with another key", zeroed, first, ErrOtherVolume, "but the device holds")
	clone := *first
	clone.Instance = crypto.NewUUID()
	refuseAnchor(t, "a clone", dev.Clone(), &clone, ErrOtherVolume, "clone")
	epoch := *first
	epoch.Epoch++
	refuseAnchor(t, "an epoch to come", dev.Clone(), &epoch, ErrRolledBack, "key epoch is 1, the anchor's is 2")
}

// TestAnchorRollback: the anchor of a volume that was rolled back to a snapshot
// refuses the device as it was before.
func TestAnchorRollback(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	change(t, v, "a")
	_, err := v.CreateSnapshot("s")
	ok(t, err)
	change(t, v, "b")
	first := offered(t, v)
	// All that was durable before the rollback switched to the snapshot.
	var before []*device.Mem
	fault := device.NewFault(dev, nil)
	ok(t, v.Close())
	v, err = anchored(t, fault, first, false)
	ok(t, err)
	fault.SetHook(func(_ int, op device.Op, _ int64, _ int) error {
		if op == device.OpSync {
			before = append(before, dev.Clone())
		}
		return nil
	})
	ok(t, v.Rollback("s", false))
	fault.SetHook(nil)
	last, used := v.LastAnchor()
	if !used || last.Generation <= first.Generation {
		t.Fatalf("%+v", last)
	}
	refused := 0
	for _, img := range append(before, dev) {
		v, err := anchored(t, img, &last, true)
		if errors.Is(err, ErrRolledBack) {
			refused++
			continue
		}
		ok(t, err)
		if _, err := v.Lookup(vfs.RootIno, "b"); !errors.Is(err, vfs.ErrNotExist) {
			t.Errorf("the anchor fits a state before the rollback: %v", err)
		}
		ok(t, v.Close())
	}
	if refused == 0 {
		t.Error("no image of before the rollback was tried")
	}
	for _, a := range []*Anchor{first, &last} {
		v, err := anchored(t, dev.Clone(), a, false)
		ok(t, err)
		mustClose(t, v)
	}
	checkClean(t, dev)
}

// newestOf is the newest root of a device.
func newestOf(t testing.TB, dev *device.Mem) *RootInfo {
	t.Helper()
	i, err := Inspect(dev, testCred(t), true)
	ok(t, err)
	return i
}

// Nobody confirms: what was given out stays valid, however much follows.
func TestAnchorsUnconfirmed(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	var all []*Anchor
	for m := range 3 {
		v := mustOpen(t, dev, Options{CommitInterval: -1})
		for i := range 20 {
			change(t, v, fmt.Sprint("f", m, "-", i))
			a := offered(t, v)
			if n := len(all); n == 0 || all[n-1].Generation != a.Generation {
				all = append(all, a)
			}
		}
		mustClose(t, v)
	}
	if len(all) != layout.MaxAnchorsOffered {
		t.Fatalf("%d anchors were given out", len(all))
	}
	for _, a := range all {
		ok(t, VerifyAnchor(dev, testCred(t), a))
	}
	// One arrives in the end; those before and after stay what they are.
	v, err := anchored(t, dev, all[10], false)
	ok(t, err)
	change(t, v, "room") // the anchor that Open got counts as confirmed: there is room for new ones
	all = append(all, offered(t, v))
	if n := len(all); all[n-1].Generation <= all[n-2].Generation {
		t.Fatal("no new anchor")
	}
	ok(t, v.ConfirmAnchor(*all[20]))
	change(t, v, "more")
	all = append(all, offered(t, v))
	mustClose(t, v)
	for _, a := range all {
		ok(t, VerifyAnchor(dev, testCred(t), a))
	}
	ok(t, cleanErr(dev))
}

// The last 1,024 are remembered, and no more.
func TestAnchorsKept(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1})
	var all []*Anchor
	for i := range layout.MaxAnchorsKept + 30 {
		if i%100 == 99 {
			mustClose(t, v)
			v = mustOpen(t, dev, Options{CommitInterval: -1})
		}
		a, err := v.Mknod(crashReq, vfs.RootIno, fmt.Sprint(i), 0o600, 0)
		ok(t, err)
		_ = a
		ok(t, v.com.commitAll())
		all = append(all, offered(t, v))
		ok(t, v.ConfirmAnchor(*all[i]))
	}
	mustClose(t, v)
	for i, a := range all {
		err := VerifyAnchor(dev, testCred(t), a)
		if old := i < len(all)-layout.MaxAnchorsKept; old && !errors.Is(err, ErrForked) || !old && err != nil {
			t.Fatalf("anchor %d of %d: %v", i, len(all), err)
		}
	}
	ok(t, cleanErr(dev))
}

func TestParseAnchor(t *testing.T) {
	a := Anchor{Volume: crypto.NewUUID(), Instance: crypto.NewUUID(), Generation: 7, Epoch: 1, MAC: [32]byte{1}}
	b, err := json.Marshal(a)
	ok(t, err)
	for _, bad := range []string{"", "{}", "null", string(b[:len(b)-1]), string(b) + "{}", strings.Replace(string(b), `"version":1`, `"version":2`, 1),
		strings.Replace(string(b), `"generation":7`, `"generation":0`, 1), strings.Replace(string(b), `"epoch":1`, `"epoch":0`, 1),
		strings.Replace(string(b), `"anchor":"01`, `"anchor":"`, 1), strings.Replace(string(b), `"epoch":1`, `"epoch":1,"more":2`, 1)} {
		if _, err := ParseAnchor([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", bad)
		}
	}
}

func FuzzParseAnchor(f *testing.F) {
	b, err := json.Marshal(Anchor{Generation: 7, Epoch: 1})
	ok(f, err)
	f.Add(b)
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAnchor(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(a)
		ok(t, err)
		if back, err := ParseAnchor(again); err != nil || back != a {
			t.Fatalf("%+v %v", back, err)
		}
	})
}

// TestInstance: a device that is to be one of its own becomes it once, and what was copied from it is refused, without a write, until somebody
// says that it is a copy.
func TestInstance(t *testing.T) {
	mine, yours := crypto.NewUUID(), crypto.NewUUID()
	open := func(dev device.Device, o Options) (*Anchor, error) {
		o.Credential, o.CommitInterval = testCred(t), -1
		v, err := Open(dev, o)
		if err != nil {
			return nil, err
		}
		a := offered(t, v)
		return a, v.Close()
	}
	must := func(dev device.Device, o Options, want crypto.UUID) *Anchor {
		t.Helper()
		a, err := open(dev, o)
		ok(t, err)
		if a.Instance != want {
			t.Fatalf("instance %v, not %v", a.Instance, want)
		}
		return a
	}
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	first, err := open(dev, Options{})
	ok(t, err)
	if first.Instance != first.Volume {
		t.Fatalf("%+v", first)
	}
	anchored := dev.Clone()
	v, err := Open(dev, Options{Credential: testCred(t), ReadOnly: true, Instance: mine, Own: true})
	ok(t, err)
	ok(t, v.Close())
	must(dev, Options{Instance: mine, Own: true}, mine)
	must(dev, Options{Instance: mine, Own: true}, mine)
	must(dev, Options{}, mine) // whoever does not care

	// One that has an anchor keeps what that is of.
	a := must(anchored, Options{Instance: mine, Own: true, Anchor: first}, first.Instance)
	must(anchored, Options{Instance: mine, Own: true, Anchor: a}, first.Instance)

	copied := dev.Clone()
	before := copied.Writes()
	for _, readOnly := range []bool{false, true} {
		if _, err := open(copied, Options{Instance: yours, Own: true, ReadOnly: readOnly}); !errors.Is(err, ErrCopy) {
			t.Fatal(err)
		}
	}
	if copied.Writes() != before+1 { // the flush of an open
		t.Fatal("it was written to")
	}
	must(copied, Options{Instance: yours}, yours)
	must(copied, Options{Instance: yours, Own: true}, yours)
	if _, err := open(copied, Options{Instance: mine, Own: true}); !errors.Is(err, ErrCopy) {
		t.Fatal(err)
	}
}
