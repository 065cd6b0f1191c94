package backendtest

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/backend"
)

func createIdempotent(t *testing.T, s Setup, b backend.Backend) {
	v1 := Must[backend.Volume](t)(b.Create(t.Context(), s.spec("a")))
	v2 := Must[backend.Volume](t)(b.Create(t.Context(), s.spec("a")))
	if !reflect.DeepEqual(v1, v2) || v1.ID == "" || v1.SizeBytes < s.SizeBytes || v1.Parameters["recordSize"] != "64KiB" {
		t.Fatalf("%+v, then %+v", v1, v2)
	}
	if len(v1.ID) > 128 {
		t.Fatalf("id of %d bytes", len(v1.ID))
	}
	wider := s.spec("a")
	wider.RequiredBytes, wider.LimitBytes = 1, 10*s.SizeBytes
	Must[backend.Volume](t)(b.Create(t.Context(), wider))
	bigger := s.spec("a")
	bigger.RequiredBytes = 2 * s.SizeBytes
	_, err := b.Create(t.Context(), bigger)
	want(t, err, backend.ErrExists)
	other := s.spec("a")
	other.Parameters = map[string]string{"recordSize": "4KiB"}
	_, err = b.Create(t.Context(), other)
	want(t, err, backend.ErrExists)
	if n := len(ids(t, b)); n != 1 {
		t.Fatalf("%d volumes", n)
	}
}

func createBad(t *testing.T, s Setup, b backend.Backend) {
	before := room(t, b, nil)
	least := max(s.MinBytes, before.MinVolumeBytes)
	cases := []struct {
		why  string
		spec backend.Spec
		err  error
	}{
		{"no name", backend.Spec{RequiredBytes: s.SizeBytes}, backend.ErrInvalid},
		{"long name", backend.Spec{Name: strings.Repeat("x", 129), RequiredBytes: s.SizeBytes}, backend.ErrInvalid},
		{"not UTF-8", backend.Spec{Name: "a\xff", RequiredBytes: s.SizeBytes}, backend.ErrInvalid},
		{"negative size", backend.Spec{Name: "a", RequiredBytes: -1}, backend.ErrInvalid},
		{"negative limit", backend.Spec{Name: "a", LimitBytes: -1}, backend.ErrInvalid},
		{"limit below required", backend.Spec{Name: "a", RequiredBytes: s.SizeBytes, LimitBytes: s.SizeBytes - 1}, backend.ErrInvalid},
		{"limit below the minimum", backend.Spec{Name: "a", LimitBytes: 1}, backend.ErrOutOfRange},
		{"no size between", backend.Spec{Name: "a", RequiredBytes: least + 1, LimitBytes: least + 2}, backend.ErrOutOfRange},
		{"too big for anything", backend.Spec{Name: "a", RequiredBytes: 1 << 62}, backend.ErrOutOfRange},
		{"more than there is", backend.Spec{Name: "a", RequiredBytes: before.AvailableBytes + s.AlignBytes}, backend.ErrNoSpace},
	}
	if !isMeter(b) {
		cases = cases[:len(cases)-1]
	}
	for _, c := range cases {
		if _, err := b.Create(t.Context(), c.spec); !errors.Is(err, c.err) {
			t.Errorf("%s: got error %v, want %v", c.why, err, c.err)
		}
	}
	if n := len(ids(t, b)); n != 0 {
		t.Fatalf("%d volumes", n)
	}
	if after := room(t, b, nil); after != before {
		t.Fatalf("capacity %+v, was %+v", after, before)
	}
}

func names(t *testing.T, s Setup, b backend.Backend) {
	seen := map[string]bool{}
	for _, name := range []string{".", "..", "../../etc", "/", "a/b", "a", "A", "ä", " ", strings.Repeat("n", 128), "x\ty", "con:1"} {
		sp := s.spec(name)
		sp.RequiredBytes = 0
		sp.LimitBytes = s.SizeBytes / 4
		v, err := b.Create(t.Context(), sp)
		if errors.Is(err, backend.ErrOutOfRange) || errors.Is(err, backend.ErrNoSpace) {
			t.Fatalf("%q: %v", name, err)
		}
		if err != nil || seen[v.ID] {
			t.Fatalf("%q: %v, id %q", name, err, v.ID)
		}
		seen[v.ID] = true
		if strings.ContainsAny(v.ID, "/\x00 ") || strings.HasPrefix(v.ID, ".") {
			t.Fatalf("id %q", v.ID)
		}
		if got := Must[backend.Volume](t)(b.Get(t.Context(), v.ID)); got.Name != name {
			t.Fatalf("name %q came back as %q", name, got.Name)
		}
	}
}

func getDelete(t *testing.T, s Setup, b backend.Backend) {
	before := room(t, b, nil)
	v := Must[backend.Volume](t)(b.Create(t.Context(), s.spec("a")))
	if got := Must[backend.Volume](t)(b.Get(t.Context(), v.ID)); !reflect.DeepEqual(got, v) {
		t.Fatalf("got %+v, made %+v", got, v)
	}
	for range 2 {
		if err := b.Delete(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
	}
	_, err := b.Get(t.Context(), v.ID)
	want(t, err, backend.ErrNotFound)
	if after := room(t, b, nil); after != before {
		t.Fatalf("capacity %+v, was %+v", after, before)
	}
}

func foreignIDs(t *testing.T, s Setup, b backend.Backend) {
	info := Must[backend.NodeInfo](t)(b.Info(t.Context()))
	v := Must[backend.Volume](t)(b.Create(t.Context(), s.spec("a")))
	flip := []byte(v.ID)
	flip[len(flip)-1] ^= 1
	for _, id := range []string{"", ".", "..", "/", "../" + v.ID, v.ID + "/", v.ID + "x", v.ID[:len(v.ID)-1], strings.ToUpper(v.ID), string(flip), v.ID + "\x00", strings.Repeat("i", 4096)} {
		_, err := b.Get(t.Context(), id)
		want(t, err, backend.ErrNotFound)
		_, err = b.Attach(t.Context(), id, info.ID, false)
		want(t, err, backend.ErrNotFound)
		_, err = b.Expand(t.Context(), id, s.SizeBytes, 0)
		want(t, err, backend.ErrNotFound)
		if _, err = b.Device(t.Context(), id, nil); !errors.Is(err, backend.ErrNotAttached) || id != string(flip) { // a node may not know this id
			want(t, err, backend.ErrNotFound)
		}
		_, err = b.Health(t.Context(), id)
		want(t, err, backend.ErrNotFound)
		if err := b.Delete(t.Context(), id); err != nil {
			t.Fatalf("delete %q: %v", id, err)
		}
		if err := b.Detach(t.Context(), id, info.ID); err != nil {
			t.Fatalf("detach %q: %v", id, err)
		}
	}
	Must[backend.Volume](t)(b.Get(t.Context(), v.ID))
}

func idsFresh(t *testing.T, s Setup, b backend.Backend) {
	v1 := Must[backend.Volume](t)(b.Create(t.Context(), s.spec("a")))
	if err := b.Delete(t.Context(), v1.ID); err != nil {
		t.Fatal(err)
	}
	v2 := Must[backend.Volume](t)(b.Create(t.Context(), s.spec("a")))
	if v1.ID == v2.ID {
		t.Fatal("the id of a deleted volume was reused")
	}
	if err := b.Delete(t.Context(), v1.ID); err != nil { // a late retry
		t.Fatal(err)
	}
	Must[backend.Volume](t)(b.Get(t.Context(), v2.ID))
}

func topology(t *testing.T, s Setup, b backend.Backend) {
	info := Must[backend.NodeInfo](t)(b.Info(t.Context()))
	far := backend.Segments{}
	for k := range info.Topology {
		far[k] = "far-away"
	}
	sp := s.spec("a")
	sp.Requisite = []backend.Segments{far}
	_, err := b.Create(t.Context(), sp)
	want(t, err, backend.ErrTopology)
	sp.Requisite = []backend.Segments{far, info.Topology}
	v := Must[backend.Volume](t)(b.Create(t.Context(), sp))
	if len(v.Topology) != 1 || !reflect.DeepEqual(v.Topology[0], info.Topology) {
		t.Fatalf("topology %v", v.Topology)
	}
	if !isMeter(b) {
		return
	}
	if c := room(t, b, far); c.AvailableBytes != 0 {
		t.Fatalf("%d bytes available in another topology", c.AvailableBytes)
	}
	if c := room(t, b, info.Topology); c.AvailableBytes == 0 {
		t.Fatal("nothing available here")
	}
}

// class tests parameters of the backend's own.
func class(t *testing.T, s Setup, b backend.Backend) {
	tunable, ok := b.(backend.Tunable)
	if !ok {
		sp := s.spec("a")
		sp.Class = map[string]string{"type": "x"}
		_, err := b.Create(t.Context(), sp)
		want(t, err, backend.ErrInvalid)
		return
	}
	if own, mutable := tunable.Parameter("recordSize"); own || mutable {
		t.Fatal("the backend claims a parameter that is not its own")
	}
	for _, bad := range []map[string]string{{"no such": "1"}, {"recordSize": "64KiB"}} {
		for _, sp := range []backend.Spec{{Name: "a", Class: bad}, {Name: "a", Mutable: bad}} {
			_, err := b.Create(t.Context(), sp)
			want(t, err, backend.ErrInvalid)
		}
	}
	v := Must[backend.Volume](t)(b.Create(t.Context(), s.spec("a")))
	want(t, tunable.Modify(t.Context(), v.ID, map[string]string{"no such": "1"}), backend.ErrInvalid)
	want(t, tunable.Modify(t.Context(), "no such", nil), backend.ErrNotFound)
	if err := tunable.Modify(t.Context(), v.ID, nil); err != nil {
		t.Fatal(err)
	}
	if n := len(ids(t, b)); n != 1 {
		t.Fatalf("%d volumes", n)
	}
}
