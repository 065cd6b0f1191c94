package snapshot_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/snapshot/create"
	"github.com/sealvol/sealvol/pkg/snapshot/restore"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
	"github.com/sealvol/sealvol/pkg/volume/volumetest"
)

// restoreOnto restores a snapshot onto a device, or goes on with a restore.
func (r *historyRig) restoreOnto(dev device.Device, rep *create.Report) (resumed bool, err error) {
	r.t.Helper()
	sn := r.read(rep.S)
	defer sn.Close()
	next, err := sn.NextIno(r.t.Context())
	r.ok(err)
	o := volume.LoadOptions{Credential: r.cred, HashSeed: sn.Body.Seed, NextIno: next}
	l, position, err := volume.ResumeLoader(dev, o)
	switch {
	case errors.Is(err, volume.ErrNotRestoring):
		return false, nil // it was whole
	case err != nil:
		if l, err = volume.NewLoader(dev, volume.FormatOptions{Recipient: r.kek, Force: true}, o); err != nil {
			return false, err
		}
	default:
		resumed = position != nil
	}
	if err := restore.Run(r.t.Context(), sn.RestoreSource(), l, restore.Options{Position: position, CommitEvery: time.Microsecond, WindowChunks: 16}); err != nil {
		_ = l.Close()
		return resumed, err
	}
	return resumed, nil
}

// TestRestoreCrash loses power at writes of a restore, which goes on afterwards.
func TestRestoreCrash(t *testing.T) {
	h := volumetest.NewHistory(t, 78, 96<<20)
	r := newHistoryRig(t, h, snapstore.Options{ChunkBytes: 16 << 10, PackBytes: 1 << 20})
	h.Steps(600)
	_, err := h.V.CreateSnapshot("s")
	r.ok(err)
	rep := r.put("", "s", r.options(nil))
	whole := device.NewMem(96 << 20)
	_, err = r.restoreOnto(whole, rep)
	r.ok(err)
	writes, resumes := whole.Writes(), 0
	for at := 1; at < writes+2; at += max(writes/40, 1) {
		dev := device.NewMem(96 << 20)
		dev.CutAfter(at)
		if _, err := r.restoreOnto(dev, rep); err == nil && at < writes {
			t.Fatalf("write %d of %d: no error", at, writes)
		}
		for i := range 3 { // dies again, later
			dev = dev.Crash(device.CrashMode(h.Rng.IntN(3)), h.Rng)
			if i < 2 {
				dev.CutAfter(1 + h.Rng.IntN(writes))
			}
			resumed, err := r.restoreOnto(dev, rep)
			if i == 2 && err != nil {
				t.Fatalf("write %d of %d: %v", at, writes, err)
			}
			if resumed {
				resumes++
			}
		}
		r.restoredSame(fmt.Sprintf("write %d of %d", at, writes), dev, rep)
	}
	if resumes < 10 {
		t.Errorf("only %d of the restores went on at a position", resumes)
	}
	t.Logf("%d writes, %d restores went on", writes, resumes)
	h.Close()
}

// restoredSame stores a restored volume again: its content is the same.
func (r *historyRig) restoredSame(what string, dev *device.Mem, rep *create.Report) {
	r.t.Helper()
	v, err := volume.Open(dev, volume.Options{Credential: r.cred, CommitInterval: -1})
	if err != nil {
		r.t.Fatalf("%s: %v", what, err)
	}
	_, err = v.CreateSnapshot("again")
	r.ok(err)
	src, err := pinned.Open(dev, pinned.Options{Credential: r.cred, Memory: 1 << 20})
	r.ok(err)
	defer src.Close()
	to, err := src.Snapshot("again")
	r.ok(err)
	again, err := create.Run(r.t.Context(), src.Identity(), nil, to, r.options(nil))
	r.ok(err)
	if rep.Content != again.Content || rep.Files > 0 && rep.Files != again.Files {
		r.t.Fatalf("%s: restored %+v: %+v", what, rep, again)
	}
	r.ok(v.Close())
	r.clean(what, dev)
}

// clean checks a volume.
func (r *historyRig) clean(what string, dev device.Device) {
	r.t.Helper()
	checked, err := check.Run(dev, check.Options{Credential: r.cred, Data: true})
	r.ok(err)
	if !checked.Clean {
		r.t.Fatalf("%s: %v", what, checked.Problems)
	}
}
