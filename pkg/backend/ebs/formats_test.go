package ebs

import (
	"testing"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

// volumeMeanwhile creates a volume of a cluster, without faults.
func volumeMeanwhile(t *testing.T, s *ec2test.Server, cluster string) string {
	t.Helper()
	fault := s.SetFault(nil)
	defer func() { s.SetFault(fault) }()
	o := options(s)
	o.Cluster = cluster
	return mustCreate(t, open(t, o), spec("of "+cluster)).ID
}

// TestFormatTags: the next backend finds the recorded state, the state never goes back, and it is
// not requested twice. An outdated describe does not undo it.
func TestFormatTags(t *testing.T) {
	s := newEC2(t, ec2test.Options{}, false)
	ctl := open(t, options(s))
	v := mustCreate(t, ctl, spec("a"))
	want := func(b *Backend, w backend.FormatState) {
		t.Helper()
		if got, err := b.FormatState(t.Context(), v.ID); got != w || err != nil {
			t.Fatalf("%q, %v, want %q", got, err, w)
		}
	}
	o := options(s)
	o.Cluster = "" // a node does not know the cluster
	b := open(t, o)
	want(b, backend.FormatNone)
	m, err := ctl.Attach(t.Context(), v.ID, nodeA, false)
	if err != nil || m[attachedMade] != "" {
		t.Fatal(m, err)
	}
	wantErr(t, b.KeepFormat(t.Context(), v.ID, backend.FormatNone), backend.ErrInvalid)
	for i, st := range []backend.FormatState{backend.FormatBegun, backend.FormatDone, backend.FormatBegun, backend.FormatDone} {
		for range 2 {
			if err := b.KeepFormat(t.Context(), v.ID, st); err != nil {
				t.Fatal(err)
			}
		}
		want(b, []backend.FormatState{backend.FormatBegun, backend.FormatDone, backend.FormatDone, backend.FormatDone}[i])
		want(open(t, o), []backend.FormatState{backend.FormatBegun, backend.FormatDone, backend.FormatDone, backend.FormatDone}[i])
	}
	if n := s.Counts()["CreateTags"]; n != 2 {
		t.Errorf("%d calls", n)
	}
	if m, err = ctl.Attach(t.Context(), v.ID, nodeA, false); err != nil || m[attachedMade] != "true" {
		t.Fatal(m, err)
	}
	// A copy is another device and has no record.
	c := mustCreate(t, ctl, backend.Spec{Name: "copy", Source: &backend.Source{Volume: v.ID}})
	if got, err := b.FormatState(t.Context(), c.ID); got != backend.FormatNone || err != nil {
		t.Fatal(got, err)
	}
	_, err = b.FormatState(t.Context(), volX)
	wantErr(t, err, backend.ErrNotFound)
}
