package ebs

import (
	"strings"
	"sync"
	"testing"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

// TestFailedSnapshot: a failed snapshot says why, and no volume can be created from it.
func TestFailedSnapshot(t *testing.T) {
	s := newEC2(t, ec2test.Options{}, false)
	b := open(t, options(s))
	v := mustCreate(t, b, spec("a"))
	of := backend.SnapshotSpec{Name: "s", Volume: v.ID}
	snap := must(b.CreateSnapshot(t.Context(), of))
	s.UpdateSnapshot(snap.ID, "error")
	snap = must(b.CreateSnapshot(t.Context(), of))
	if snap.State != backend.SnapshotFailed || !strings.Contains(snap.Message, "docs/iam/kms.json") {
		t.Errorf("%+v", snap)
	}
	_, err := b.Create(t.Context(), backend.Spec{Name: "copy", Source: &backend.Source{Snapshot: snap.ID}})
	wantErr(t, err, backend.ErrInvalid)
	if err := b.DeleteSnapshot(t.Context(), snap.ID); err != nil {
		t.Error(err)
	}
}

// TestSnapshotTwice: EC2 has no token for snapshots. After a lost answer, no unknown snapshot
// remains.
func TestSnapshotTwice(t *testing.T) {
	for name, f := range map[string]ec2test.Fault{"lost": {Lost: true}, "dropped": {Drop: true}, "failed": {Code: "InternalError", Status: 500}} {
		t.Run(name, func(t *testing.T) {
			s := newEC2(t, ec2test.Options{Delays: slow}, false)
			o := options(s)
			o.MaxAttempts = 5 // none is made, because a retry would create a second snapshot
			b := open(t, o)
			v := mustCreate(t, b, spec("a"))
			lose(s, "CreateSnapshot", 1, f)
			snap, err := b.CreateSnapshot(t.Context(), backend.SnapshotSpec{Name: "s", Volume: v.ID})
			if (err == nil) != f.Lost {
				t.Fatal(err)
			}
			again := must(b.CreateSnapshot(t.Context(), backend.SnapshotSpec{Name: "s", Volume: v.ID}))
			if got := s.Snapshots(); len(got) != 1 || got[0] != again.ID || f.Lost && snap.ID != again.ID {
				t.Fatal(got, snap, again)
			}
		})
	}
}

// TestTwoSnapshotsOfOneName, which overlapping drivers may create: the older one counts, the
// younger one is deleted.
func TestTwoSnapshotsOfOneName(t *testing.T) {
	late := slow
	late.Lag = quick.Settle / 3
	s := newEC2(t, ec2test.Options{Delays: late}, false)
	v := mustCreate(t, open(t, options(s)), spec("a"))
	var wg sync.WaitGroup
	got := make([]backend.Snapshot, 2)
	for i := range got {
		b := open(t, options(s))
		wg.Go(func() {
			var err error
			if got[i], err = b.CreateSnapshot(t.Context(), backend.SnapshotSpec{Name: "s", Volume: v.ID}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	final := must(open(t, options(s)).CreateSnapshot(t.Context(), backend.SnapshotSpec{Name: "s", Volume: v.ID}))
	if list := s.Snapshots(); len(list) != 1 || list[0] != final.ID || got[0].ID != final.ID || got[1].ID != final.ID {
		t.Fatalf("%v, want %s; two drivers were told %s and %s", list, final.ID, got[0].ID, got[1].ID)
	}
}
