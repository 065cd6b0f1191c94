package backendtest

import (
	"reflect"
	"testing"

	"github.com/sealvol/sealvol/pkg/backend"
)

// room returns the capacity of a backend, or always the same value if it does not know its
// capacity.
func room(t *testing.T, b backend.Backend, where backend.Segments) backend.Capacity {
	t.Helper()
	m, ok := b.(backend.Meter)
	if !ok {
		return backend.Capacity{}
	}
	return Must[backend.Capacity](t)(m.Capacity(t.Context(), where))
}

func isMeter(b backend.Backend) bool {
	_, ok := b.(backend.Meter)
	return ok
}

func attach(t *testing.T, s Setup, b backend.Backend) {
	info := Must[backend.NodeInfo](t)(b.Info(t.Context()))
	v := Must[backend.Volume](t)(b.Create(t.Context(), s.spec("a")))
	_, err := b.Attach(t.Context(), v.ID, "no-such-node", false)
	want(t, err, backend.ErrNodeNotFound)
	c1 := Must[map[string]string](t)(b.Attach(t.Context(), v.ID, info.ID, false))
	c2 := Must[map[string]string](t)(b.Attach(t.Context(), v.ID, info.ID, false))
	if !reflect.DeepEqual(c1, c2) {
		t.Fatal("attaching twice gave two contexts")
	}
	_, err = b.Attach(t.Context(), v.ID, info.ID, true)
	want(t, err, backend.ErrAttachedOtherwise)
	if s.OtherNode != "" {
		_, err = b.Attach(t.Context(), v.ID, s.OtherNode, false)
		want(t, err, backend.ErrAttachedElsewhere)
	}
	if got := ids(t, b)[v.ID].Attachment; got == nil || got.Node != info.ID {
		t.Fatalf("listed attachment %+v", got)
	}
	want(t, b.Delete(t.Context(), v.ID), backend.ErrBusy)
	if err := b.Detach(t.Context(), v.ID, "another-node"); err != nil {
		t.Fatal(err)
	}
	if got := Must[backend.Volume](t)(b.Get(t.Context(), v.ID)); got.Attachment == nil {
		t.Fatal("detaching from another node detached here")
	}
	for _, node := range []string{info.ID, info.ID, ""} {
		if err := b.Detach(t.Context(), v.ID, node); err != nil {
			t.Fatal(err)
		}
	}
	Must[map[string]string](t)(b.Attach(t.Context(), v.ID, info.ID, true))
	if got := Must[backend.Volume](t)(b.Get(t.Context(), v.ID)).Attachment; got == nil || !got.ReadOnly {
		t.Fatalf("attachment %+v", got)
	}
	if err := b.Detach(t.Context(), v.ID, ""); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
}

func device(t *testing.T, s Setup, b backend.Backend) {
	info := Must[backend.NodeInfo](t)(b.Info(t.Context()))
	v := Must[backend.Volume](t)(b.Create(t.Context(), s.spec("a")))
	_, err := b.Device(t.Context(), v.ID, nil)
	want(t, err, backend.ErrNotAttached)
	c := Must[map[string]string](t)(b.Attach(t.Context(), v.ID, info.ID, false))
	d1 := Must[backend.Device](t)(b.Device(t.Context(), v.ID, c))
	d2 := Must[backend.Device](t)(b.Device(t.Context(), v.ID, c))
	if d1 != d2 || d1.Path == "" || d1.SizeBytes < v.SizeBytes || (d1.Ino == 0) == (d1.Rdev == 0) {
		t.Fatalf("%+v, then %+v", d1, d2)
	}
	if d1.ReadOnly {
		t.Fatal("the device is read-only, but the volume was attached for writing")
	}
	if err := b.Detach(t.Context(), v.ID, ""); err != nil {
		t.Fatal(err)
	}
	c = Must[map[string]string](t)(b.Attach(t.Context(), v.ID, info.ID, true))
	if d := Must[backend.Device](t)(b.Device(t.Context(), v.ID, c)); !d.ReadOnly {
		t.Fatal("the volume is attached read-only, but the device is writable")
	}
	if conds := Must[[]backend.Condition](t)(b.Health(t.Context(), v.ID)); len(conds) != 0 {
		t.Fatalf("a new volume has conditions: %+v", conds)
	}
}

func expand(t *testing.T, s Setup, b backend.Backend) {
	v := Must[backend.Volume](t)(b.Create(t.Context(), s.spec("a")))
	before := room(t, b, nil)
	for range 2 {
		if n := Must[int64](t)(b.Expand(t.Context(), v.ID, 2*s.SizeBytes, 0)); n < 2*s.SizeBytes {
			t.Fatalf("expanded to %d", n)
		}
	}
	grown := Must[backend.Volume](t)(b.Get(t.Context(), v.ID))
	if n := Must[int64](t)(b.Expand(t.Context(), v.ID, 1, 0)); n != grown.SizeBytes {
		t.Fatalf("shrunk from %d to %d", grown.SizeBytes, n)
	}
	after := room(t, b, nil)
	if isMeter(b) && before.AvailableBytes-after.AvailableBytes != grown.SizeBytes-v.SizeBytes {
		t.Fatalf("capacity went from %d to %d", before.AvailableBytes, after.AvailableBytes)
	}
	_, err := b.Expand(t.Context(), v.ID, 1, s.SizeBytes)
	want(t, err, backend.ErrOutOfRange)
	_, err = b.Expand(t.Context(), v.ID, 0, 0)
	want(t, err, backend.ErrInvalid)
	_, err = b.Expand(t.Context(), v.ID, -1, 0)
	want(t, err, backend.ErrInvalid)
	_, err = b.Expand(t.Context(), v.ID, 1<<62, 0)
	want(t, err, backend.ErrOutOfRange)
	if isMeter(b) {
		_, err = b.Expand(t.Context(), v.ID, grown.SizeBytes+after.AvailableBytes+s.AlignBytes, 0)
		want(t, err, backend.ErrNoSpace)
	}
	if got := Must[backend.Volume](t)(b.Get(t.Context(), v.ID)); got.SizeBytes != grown.SizeBytes {
		t.Fatalf("a refused expansion left %d bytes", got.SizeBytes)
	}
}

func capacity(t *testing.T, s Setup, b backend.Backend) {
	before := room(t, b, nil)
	if before.AvailableBytes < 4*s.SizeBytes || before.MinVolumeBytes > s.SizeBytes {
		t.Fatalf("%+v", before)
	}
	v := Must[backend.Volume](t)(b.Create(t.Context(), s.spec("a")))
	after := room(t, b, nil)
	if before.AvailableBytes-after.AvailableBytes != v.SizeBytes {
		t.Fatalf("capacity went from %d to %d for %d bytes", before.AvailableBytes, after.AvailableBytes, v.SizeBytes)
	}
	all := s.spec("rest")
	all.RequiredBytes = after.AvailableBytes
	if after.AvailableBytes <= after.MaxVolumeBytes {
		Must[backend.Volume](t)(b.Create(t.Context(), all))
		if left := room(t, b, nil); left.AvailableBytes != 0 {
			t.Fatalf("%d bytes left", left.AvailableBytes)
		}
	}
}
