package backendtest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/sealvol/sealvol/pkg/backend"
)

// MiB in bytes.
const MiB = 1 << 20

// Setup describes one backend under test.
type Setup struct {
	// New returns an empty backend.
	New func(t *testing.T) backend.Backend
	// SizeBytes is a size that a volume may have, four times of which fit.
	SizeBytes int64
	// AlignBytes is what sizes are rounded up to; MinBytes the least. Default: 4096, and what Capacity tells.
	AlignBytes, MinBytes int64
	// OtherNode is a second node that volumes can be attached to, "" if there is none.
	OtherNode string
}

// Run runs every test of the suite.
func Run(t *testing.T, s Setup) {
	if s.AlignBytes == 0 {
		s.AlignBytes = 4096
	}
	for _, c := range []struct {
		name string
		run  func(*testing.T, Setup, backend.Backend)
	}{
		{"create is idempotent by name", createIdempotent},
		{"create refuses bad specs and changes nothing", createBad},
		{"names of any shape", names},
		{"get and delete", getDelete},
		{"foreign ids", foreignIDs},
		{"an id never returns", idsFresh},
		{"list pages", list},
		{"attach and detach", attach},
		{"device", device},
		{"expand", expand},
		{"class", class},
		{"topology", topology},
		{"cancelled context", cancelled},
		{"concurrent callers", concurrent},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, s, s.New(t)) })
	}
	b := s.New(t)
	if _, ok := b.(backend.Meter); ok {
		t.Run("capacity", func(t *testing.T) { capacity(t, s, s.New(t)) })
	}
	if _, ok := b.(backend.Snapshotter); ok {
		runSnapshots(t, s)
	}
}

// Must fails the test on an error.
func Must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func want(t *testing.T, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got error %v, want %v", err, target)
	}
}

func ids(t *testing.T, b backend.Backend) map[string]backend.Volume {
	t.Helper()
	vols, next, err := b.List(t.Context(), "", 0)
	if err != nil || next != "" {
		t.Fatalf("list: %v, next %q", err, next)
	}
	m := map[string]backend.Volume{}
	for _, v := range vols {
		m[v.ID] = v
	}
	return m
}

func (s Setup) spec(name string) backend.Spec {
	return backend.Spec{Name: name, RequiredBytes: s.SizeBytes, Parameters: map[string]string{"recordSize": "64KiB"}}
}

// room is what a backend says it has; nothing, always the same, if it does not know.
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
		if _, err = b.Device(t.Context(), id, nil); !errors.Is(err, backend.ErrNotAttached) || id != string(flip) { // which a node may not know
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
		t.Fatal("a deleted volume's id returned")
	}
	if err := b.Delete(t.Context(), v1.ID); err != nil { // a late repetition
		t.Fatal(err)
	}
	Must[backend.Volume](t)(b.Get(t.Context(), v2.ID))
}

func list(t *testing.T, s Setup, b backend.Backend) {
	_, _, err := b.List(t.Context(), "invalid-token", 1)
	want(t, err, backend.ErrBadToken)
	_, _, err = b.List(t.Context(), "", -1)
	want(t, err, backend.ErrInvalid)
	made := map[string]bool{}
	small := func(name string) backend.Volume {
		sp := s.spec(name)
		sp.RequiredBytes, sp.LimitBytes = 0, s.SizeBytes/4
		return Must[backend.Volume](t)(b.Create(t.Context(), sp))
	}
	for i := range 7 {
		made[small(fmt.Sprint("v", i)).ID] = true
	}
	token, seen := "", map[string]bool{}
	for page := 0; ; page++ {
		vols, next, err := b.List(t.Context(), token, 2)
		if err != nil || len(vols) > 2 {
			t.Fatalf("%d volumes, %v", len(vols), err)
		}
		for _, v := range vols {
			if seen[v.ID] {
				t.Fatalf("%s twice", v.ID)
			}
			seen[v.ID] = true
		}
		if next == "" {
			break
		}
		if page == 1 { // the token's own volume goes, another comes
			if err := b.Delete(t.Context(), vols[1].ID); err != nil {
				t.Fatal(err)
			}
			small("late")
		}
		token = next
	}
	for id := range made {
		if !seen[id] {
			t.Errorf("%s was there all the time and not listed", id)
		}
	}
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
		t.Fatal("read-only without having been asked for")
	}
	if err := b.Detach(t.Context(), v.ID, ""); err != nil {
		t.Fatal(err)
	}
	c = Must[map[string]string](t)(b.Attach(t.Context(), v.ID, info.ID, true))
	if d := Must[backend.Device](t)(b.Device(t.Context(), v.ID, c)); !d.ReadOnly {
		t.Fatal("attached read-only, device is not")
	}
	if conds := Must[[]backend.Condition](t)(b.Health(t.Context(), v.ID)); len(conds) != 0 {
		t.Fatalf("a new volume is ill: %+v", conds)
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
		t.Fatalf("%d bytes available far away", c.AvailableBytes)
	}
	if c := room(t, b, info.Topology); c.AvailableBytes == 0 {
		t.Fatal("nothing available here")
	}
}

// class is about parameters of the backend's own.
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
		t.Fatal("a parameter of others is claimed")
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

func cancelled(t *testing.T, s Setup, b backend.Backend) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.Create(ctx, s.spec("a"))
	want(t, err, context.Canceled)
	if n := len(ids(t, b)); n != 0 {
		t.Fatalf("%d volumes", n)
	}
}

func concurrent(t *testing.T, s Setup, b backend.Backend) {
	info := Must[backend.NodeInfo](t)(b.Info(t.Context()))
	var wg sync.WaitGroup
	got := make([]string, 8)
	for i := range got {
		wg.Go(func() {
			v, err := b.Create(t.Context(), s.spec("same"))
			if err != nil {
				t.Error(err)
				return
			}
			got[i] = v.ID
			if _, err := b.Attach(t.Context(), v.ID, info.ID, false); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, id := range got {
		if id != got[0] {
			t.Fatalf("one name, two volumes: %q", got)
		}
	}
}
