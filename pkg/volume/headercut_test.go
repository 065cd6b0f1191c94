package volume

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/header"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// headerAt returns the bytes of a copy of the header.
func headerAt(t testing.TB, dev device.Device, off int64) []byte {
	t.Helper()
	b := make([]byte, layout.HeaderBytes)
	_, err := dev.ReadAt(b, off)
	ok(t, err)
	return b
}

// withHeader is an image with another copy of the header.
func withHeader(t testing.TB, dev *device.Mem, off int64, b []byte) *device.Mem {
	t.Helper()
	img := dev.Clone()
	_, err := img.WriteAt(b, off)
	ok(t, err)
	return img
}

// aboutHeader returns what fsck says of the header, problems and notes, and that all else is well.
func aboutHeader(t testing.TB, dev device.Device, c crypto.Credential) (problems, notes []string) {
	t.Helper()
	rep, err := check.Run(dev, check.Options{Credential: c})
	ok(t, err)
	for _, p := range rep.Problems {
		if !strings.HasPrefix(p.Where, "header") {
			t.Errorf("%s: %s", p.Where, p.What)
		}
		problems = append(problems, p.Where+": "+p.What)
	}
	for _, p := range rep.Notes {
		if strings.HasPrefix(p.Where, "header") {
			notes = append(notes, p.Where+": "+p.What)
		}
	}
	return problems, notes
}

// cutBetween makes a change again and again, cut one call later each time, until the
// cut falls between the two copies of the header.
func cutBetween(t *testing.T, base *device.Mem, change func(v *Volume) error) *device.Mem {
	t.Helper()
	for at := 1; at < 500; at++ {
		dev := base.Clone()
		v := mustOpen(t, dev, Options{CommitInterval: -1})
		dev.CutAfter(at)
		err := change(v)
		dev.Cut()
		v.fail(device.ErrCrashed)
		_ = v.Close()
		img := dev.Crash(device.CrashKeepAll, rand.New(rand.NewPCG(1, 1)))
		hs, herr := header.Read(img)
		ok(t, herr)
		if a, b := hs.Copy[0], hs.Copy[1]; a != nil && b != nil && a.Sequence != b.Sequence {
			return img
		}
		if err == nil {
			break
		}
	}
	t.Fatal("no cut falls between the copies")
	return nil
}

// A change of the header that is cut between its copies is no damage, as the log is
// none that waits for replay, and the next mount ends the change.
func TestCutHeaderIsNoDamage(t *testing.T) {
	t.Parallel()
	one, two := testKey(t), secretKey(t, 2)
	base := newDev(t, 80<<20)
	v := mustOpen(t, base, Options{CommitInterval: -1})
	_, err := v.AddKey(two)
	ok(t, err)
	mustClose(t, v)
	all := []crypto.Credential{one.Credential, two.Credential}
	rotating := base.Clone()
	v = mustOpen(t, rotating, Options{CommitInterval: -1})
	v.rot.hold = make(chan struct{}) // until the next mount
	_, err = v.RotateDataKey(RotateOptions{Keys: all})
	ok(t, err)
	mustClose(t, v)
	for name, c := range map[string]struct {
		base   *device.Mem
		change func(v *Volume) error
	}{
		"add":      {base, func(v *Volume) error { _, err := v.AddKey(secretKey(t, 3)); return err }},
		"remove":   {base, func(v *Volume) error { return v.RemoveKey(1, false) }},
		"snapshot": {base, func(v *Volume) error { _, err := v.CreateSnapshot("s"); return err }},
		"rotate":   {base, func(v *Volume) error { _, err := v.RotateDataKey(RotateOptions{Keys: all}); return err }},
		"rotated":  {rotating, func(v *Volume) error { _, err := v.WaitRotation(t.Context(), nil); return err }},
	} {
		t.Run(name, func(t *testing.T) {
			img := cutBetween(t, c.base, c.change)
			if problems, notes := aboutHeader(t, img, one.Credential); len(problems) != 0 || len(notes) != 1 || !strings.Contains(notes[0], "copy B: it is older than copy A") {
				t.Errorf("problems %q, notes %q", problems, notes)
			}
			v, err := openWith(t, img, one.Credential, true)
			ok(t, err)
			if rep := scrubAll(t, v, ScrubOptions{}); rep.Total != 0 {
				t.Errorf("scrub of a read-only mount: %+v", rep.Damages)
			}
			mustClose(t, v)
			mended(t, img, one.Credential)
		})
	}
	// To the key that copy A does not have any more it is the other way round.
	img := cutBetween(t, base, func(v *Volume) error { return v.RemoveKey(1, false) })
	if problems, notes := aboutHeader(t, img, two.Credential); len(problems) != 0 || len(notes) != 1 || !strings.Contains(notes[0], "copy A: it is newer than copy B") {
		t.Errorf("problems %q, notes %q", problems, notes)
	}
	mended(t, img, two.Credential)
	ok(t, opens(t, img, two.Credential)) // the removal was given up
}

// mended checks that a mount leaves two copies that are the same.
func mended(t *testing.T, img *device.Mem, c crypto.Credential) {
	t.Helper()
	v, err := openWith(t, img, c, false)
	ok(t, err)
	if rep := scrubAll(t, v, ScrubOptions{}); rep.Total != 0 {
		t.Errorf("scrub finds what the mount should have mended: %+v", rep.Damages)
	}
	mustClose(t, v)
	if problems, notes := aboutHeader(t, img, c); len(problems)+len(notes) != 0 {
		t.Errorf("after a mount: problems %q, notes %q", problems, notes)
	}
}

// An older copy that no cut explains was put back, or a write was lost: damage. It
// opens nothing for a key that was removed, and scrub and the next mount mend it.
func TestOldHeaderCopyIsDamage(t *testing.T) {
	one, two := testKey(t), secretKey(t, 2)
	dev := newDev(t, 80<<20)
	first := headerAt(t, dev, layout.HeaderOffsetB)
	v := mustOpen(t, dev, Options{CommitInterval: -1})
	for i := range byte(3) {
		_, err := v.AddKey(secretKey(t, 2+i))
		ok(t, err)
	}
	mustClose(t, v)
	added := dev.Clone()
	before := headerAt(t, dev, layout.HeaderOffsetB)
	v = mustOpen(t, dev, Options{CommitInterval: -1})
	ok(t, v.RemoveKey(1, false))
	mustClose(t, v)
	torn := headerAt(t, dev, layout.HeaderOffsetB)
	copy(torn[:layout.HeaderBytes/2], before)
	for name, c := range map[string]struct {
		dev   *device.Mem
		off   int64
		bytes []byte
		where string
	}{
		"B from before a removal":  {dev, layout.HeaderOffsetB, before, "copy B: the copy of the volume header is older"},
		"A from before a removal":  {dev, layout.HeaderOffsetA, before, "copy A: the copy of the volume header is older"},
		"B of long ago":            {added, layout.HeaderOffsetB, first, "copy B: the copy of the volume header is older"},
		"A of before the last one": {added, layout.HeaderOffsetA, first, "copy A: the copy of the volume header is older"},
		"B torn":                   {dev, layout.HeaderOffsetB, torn, "copy B: the volume header is damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			img := withHeader(t, c.dev, c.off, c.bytes)
			if problems, notes := aboutHeader(t, img, one.Credential); len(problems) != 1 || len(notes) != 0 || !strings.Contains(problems[0], c.where) {
				t.Errorf("problems %q, notes %q", problems, notes)
			}
			mended(t, img.Clone(), one.Credential)
			if c.dev != dev {
				return
			}
			if err := opens(t, img, two.Credential); !errors.Is(err, ErrForged) && !errors.Is(err, ErrWrongKey) {
				t.Errorf("the removed key: %v", err)
			}
			// Put back while the volume is mounted, scrub mends it.
			live := c.dev.Clone()
			v := mustOpen(t, live, Options{CommitInterval: -1})
			_, err := live.WriteAt(c.bytes, c.off)
			ok(t, err)
			scrubAll(t, v, ScrubOptions{}).want(t, "header "+c.where[:strings.Index(c.where, ":")], true)
			mustClose(t, v)
			if problems, notes := aboutHeader(t, live, one.Credential); len(problems)+len(notes) != 0 {
				t.Errorf("after the scrub: problems %q, notes %q", problems, notes)
			}
		})
	}
	// The removed key can be told apart from one that a cut has left.
	img := withHeader(t, dev, layout.HeaderOffsetB, before)
	if problems, _ := aboutHeader(t, img, two.Credential); len(problems) == 0 {
		t.Error("fsck by the removed key is content")
	}
}
