package backendtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/sealvol/sealvol/pkg/backend"
)

// snapshotting is a backend with snapshots.
type snapshotting interface {
	backend.Backend
	backend.Snapshotter
}

func runSnapshots(t *testing.T, s Setup) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, Setup, snapshotting)
	}{
		{"snapshots are idempotent by name", snapshotIdempotent},
		{"bad snapshots change nothing", snapshotBad},
		{"a snapshot is of one moment", snapshotContent},
		{"volumes of sources", copies},
		{"snapshot lists", snapshotList},
		{"a snapshot outlives its volume", snapshotOutlives},
		{"snapshots of concurrent callers", snapshotConcurrent},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, ok := s.New(t).(snapshotting)
			if !ok {
				t.Fatal("snapshots come and go")
			}
			c.run(t, s, b)
		})
	}
}

// cut creates a snapshot and repeats the call until it is ready: a backend that polls waits a
// little in each call.
func cut(t *testing.T, b snapshotting, name, volume string) backend.Snapshot {
	t.Helper()
	for {
		s, err := b.CreateSnapshot(t.Context(), backend.SnapshotSpec{Name: name, Volume: volume})
		if err != nil {
			t.Fatal(err)
		}
		switch s.State {
		case backend.SnapshotReady:
			return s
		case backend.SnapshotPending:
		case backend.SnapshotFailed:
			t.Fatalf("snapshot failed: %s", s.Message)
		default:
			t.Fatalf("state %q", s.State)
		}
	}
}

// small creates a volume of a quarter of the size.
func (s Setup) small(t *testing.T, b backend.Backend, name string) backend.Volume {
	t.Helper()
	sp := s.spec(name)
	sp.RequiredBytes, sp.LimitBytes = 0, s.SizeBytes/4
	return Must[backend.Volume](t)(b.Create(t.Context(), sp))
}

// access attaches a volume and opens its device.
func access(t *testing.T, b backend.Backend, id string, use func(f *os.File) error) {
	t.Helper()
	info := Must[backend.NodeInfo](t)(b.Info(t.Context()))
	c := Must[map[string]string](t)(b.Attach(t.Context(), id, info.ID, false))
	d := Must[backend.Device](t)(b.Device(t.Context(), id, c))
	f, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(use(f), f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if err := b.Detach(t.Context(), id, ""); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, b backend.Backend, id, text string, off int64) {
	t.Helper()
	access(t, b, id, func(f *os.File) error {
		_, err := f.WriteAt([]byte(text), off)
		return err
	})
}

func read(t *testing.T, b backend.Backend, id string, n int, off int64) (text string) {
	t.Helper()
	access(t, b, id, func(f *os.File) error {
		buf := make([]byte, n)
		_, err := f.ReadAt(buf, off)
		text = string(buf)
		return err
	})
	return text
}

func snapshotIdempotent(t *testing.T, s Setup, b snapshotting) {
	v, other := s.small(t, b, "a"), s.small(t, b, "b")
	before := room(t, b, nil)
	s1 := cut(t, b, "s", v.ID)
	s2 := cut(t, b, "s", v.ID)
	if !reflect.DeepEqual(s1, s2) || s1.ID == "" || s1.Volume != v.ID || s1.SizeBytes != v.SizeBytes || s1.Name != "s" || s1.Created.IsZero() || s1.Origin != v.ID ||
		!reflect.DeepEqual(s1.Parameters, v.Parameters) || len(s1.ID) > 128 {
		t.Fatalf("%+v, then %+v", s1, s2)
	}
	_, err := b.CreateSnapshot(t.Context(), backend.SnapshotSpec{Name: "s", Volume: other.ID})
	want(t, err, backend.ErrExists)
	if got := Must[backend.Snapshot](t)(b.GetSnapshot(t.Context(), s1.ID)); !reflect.DeepEqual(got, s1) {
		t.Fatalf("got %+v, made %+v", got, s1)
	}
	for range 2 {
		if err := b.DeleteSnapshot(t.Context(), s1.ID); err != nil {
			t.Fatal(err)
		}
	}
	_, err = b.GetSnapshot(t.Context(), s1.ID)
	want(t, err, backend.ErrSnapshotNotFound)
	if after := room(t, b, nil); after != before {
		t.Fatalf("capacity %+v, was %+v", after, before)
	}
	if again := cut(t, b, "s", other.ID); again.ID == s1.ID {
		t.Fatal("the id of a deleted snapshot was reused")
	}
}

func snapshotBad(t *testing.T, s Setup, b snapshotting) {
	v := s.small(t, b, "a")
	snap := cut(t, b, "kept", v.ID)
	before := room(t, b, nil)
	for _, c := range []struct {
		spec backend.SnapshotSpec
		err  error
	}{
		{backend.SnapshotSpec{Volume: v.ID}, backend.ErrInvalid},
		{backend.SnapshotSpec{Name: strings.Repeat("x", 129), Volume: v.ID}, backend.ErrInvalid},
		{backend.SnapshotSpec{Name: "a\xff", Volume: v.ID}, backend.ErrInvalid},
		{backend.SnapshotSpec{Name: "n", Volume: ""}, backend.ErrNotFound},
		{backend.SnapshotSpec{Name: "n", Volume: "../" + v.ID}, backend.ErrNotFound},
		{backend.SnapshotSpec{Name: "n", Volume: snap.ID}, backend.ErrNotFound},
	} {
		_, err := b.CreateSnapshot(t.Context(), c.spec)
		want(t, err, c.err)
	}
	for _, src := range []backend.Source{{}, {Volume: v.ID, Snapshot: snap.ID}} {
		_, err := b.Create(t.Context(), backend.Spec{Name: "n", Source: &src})
		want(t, err, backend.ErrInvalid)
	}
	flip := []byte(snap.ID)
	flip[len(flip)-1] ^= 1
	for _, id := range []string{".", "/", "../" + snap.ID, snap.ID + "x", string(flip), strings.ToUpper(snap.ID), v.ID, strings.Repeat("i", 4096)} {
		_, err := b.GetSnapshot(t.Context(), id)
		want(t, err, backend.ErrSnapshotNotFound)
		_, err = b.Create(t.Context(), backend.Spec{Name: "n", Source: &backend.Source{Snapshot: id}})
		want(t, err, backend.ErrSnapshotNotFound)
		if err := b.DeleteSnapshot(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if id != v.ID {
			_, err = b.Create(t.Context(), backend.Spec{Name: "n", Source: &backend.Source{Volume: id}})
			want(t, err, backend.ErrNotFound)
		}
	}
	_, err := b.Create(t.Context(), backend.Spec{Name: "n", LimitBytes: v.SizeBytes - s.AlignBytes, Source: &backend.Source{Volume: v.ID}})
	want(t, err, backend.ErrOutOfRange)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = b.CreateSnapshot(ctx, backend.SnapshotSpec{Name: "n", Volume: v.ID})
	want(t, err, context.Canceled)
	if n := len(ids(t, b)); n != 1 {
		t.Fatalf("%d volumes", n)
	}
	if list, _, err := b.ListSnapshots(t.Context(), "", "", 0); err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	if after := room(t, b, nil); after != before {
		t.Fatalf("capacity %+v, was %+v", after, before)
	}
}

func snapshotContent(t *testing.T, s Setup, b snapshotting) {
	v := s.small(t, b, "a")
	last := v.SizeBytes - 4096
	write(t, b, v.ID, "then", 4096)
	write(t, b, v.ID, "last", last)
	snap := cut(t, b, "s", v.ID)
	write(t, b, v.ID, "now!", 4096)
	restored := Must[backend.Volume](t)(b.Create(t.Context(), backend.Spec{Name: "r", Source: &backend.Source{Snapshot: snap.ID}}))
	clone := Must[backend.Volume](t)(b.Create(t.Context(), backend.Spec{Name: "c", Source: &backend.Source{Volume: v.ID}}))
	for id, text := range map[string]string{restored.ID: "then", clone.ID: "now!"} {
		if got := read(t, b, id, 4, 4096) + read(t, b, id, 4, last) + read(t, b, id, 1, 0); got != text+"last"+"\x00" {
			t.Errorf("got %q, want %q", got, text)
		}
	}
	write(t, b, clone.ID, "mine", 4096)
	write(t, b, restored.ID, "ours", 4096)
	if got := read(t, b, v.ID, 4, 4096); got != "now!" {
		t.Errorf("writing to a copy changed the source to %q", got)
	}
	again := Must[backend.Volume](t)(b.Create(t.Context(), backend.Spec{Name: "r2", Source: &backend.Source{Snapshot: snap.ID}}))
	if got := read(t, b, again.ID, 4, 4096); got != "then" {
		t.Errorf("the snapshot has changed to %q", got)
	}
}

func copies(t *testing.T, s Setup, b snapshotting) {
	v := s.small(t, b, "a")
	snap := cut(t, b, "s", v.ID)
	spec := backend.Spec{Name: "c", RequiredBytes: v.SizeBytes + s.AlignBytes, Source: &backend.Source{Snapshot: snap.ID}, Parameters: v.Parameters}
	c1 := Must[backend.Volume](t)(b.Create(t.Context(), spec))
	c2 := Must[backend.Volume](t)(b.Create(t.Context(), spec))
	if !reflect.DeepEqual(c1, c2) || c1.SizeBytes < v.SizeBytes+s.AlignBytes || c1.Origin != v.ID || c1.Source == nil || c1.Source.Snapshot != snap.ID {
		t.Fatalf("%+v, then %+v", c1, c2)
	}
	read(t, b, c1.ID, 1, v.SizeBytes) // it has grown
	for _, src := range []*backend.Source{nil, {Volume: v.ID}} {
		other := spec
		other.Source = src
		_, err := b.Create(t.Context(), other)
		want(t, err, backend.ErrExists)
	}
	_, err := b.Create(t.Context(), backend.Spec{Name: "a", LimitBytes: v.SizeBytes, Parameters: v.Parameters, Source: &backend.Source{Snapshot: snap.ID}})
	want(t, err, backend.ErrExists)
	grand := Must[backend.Volume](t)(b.Create(t.Context(), backend.Spec{Name: "cc", Source: &backend.Source{Volume: c1.ID}}))
	if grand.Origin != v.ID || grand.SizeBytes < c1.SizeBytes {
		t.Fatalf("%+v", grand)
	}
	if gs := cut(t, b, "gs", grand.ID); gs.Origin != v.ID || gs.Volume != grand.ID {
		t.Fatalf("%+v", gs)
	}
	if v.Origin != "" || v.Source != nil {
		t.Fatalf("%+v", v)
	}
}

func snapshotList(t *testing.T, s Setup, b snapshotting) {
	a, c := s.small(t, b, "a"), s.small(t, b, "c")
	made, ofA := map[string]bool{}, 0
	for i := range 5 {
		v := a
		if i%2 == 1 {
			v = c
		} else {
			ofA++
		}
		made[cut(t, b, fmt.Sprint("s", i), v.ID).ID] = true
	}
	for _, volume := range []string{"", a.ID} {
		token, seen := "", map[string]bool{}
		for {
			page, next, err := b.ListSnapshots(t.Context(), volume, token, 2)
			if err != nil || len(page) > 2 || len(page) == 0 {
				t.Fatal(page, err)
			}
			for _, x := range page {
				if seen[x.ID] || !made[x.ID] || volume != "" && x.Volume != volume {
					t.Fatalf("%+v", x)
				}
				seen[x.ID] = true
			}
			if token = next; token == "" {
				break
			}
		}
		if want := map[string]int{"": 5, a.ID: ofA}[volume]; len(seen) != want {
			t.Errorf("got %d snapshots, want %d", len(seen), want)
		}
	}
	if list, next, err := b.ListSnapshots(t.Context(), "no such volume", "", 0); err != nil || len(list) != 0 || next != "" {
		t.Fatal(list, next, err)
	}
	_, _, err := b.ListSnapshots(t.Context(), "", "invalid-token", 1)
	want(t, err, backend.ErrBadToken)
	_, _, err = b.ListSnapshots(t.Context(), "", "", -1)
	want(t, err, backend.ErrInvalid)
}

func snapshotOutlives(t *testing.T, s Setup, b snapshotting) {
	v := s.small(t, b, "a")
	write(t, b, v.ID, "kept", 0)
	snap := cut(t, b, "s", v.ID)
	if err := b.Delete(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	spec := backend.Spec{Name: "r", Source: &backend.Source{Snapshot: snap.ID}}
	r := Must[backend.Volume](t)(b.Create(t.Context(), spec))
	if err := b.DeleteSnapshot(t.Context(), snap.ID); err != nil {
		t.Fatal(err)
	}
	if got := read(t, b, r.ID, 4, 0); got != "kept" {
		t.Fatalf("%q", got)
	}
	// A late retry finds the volume, whose source is gone.
	if again := Must[backend.Volume](t)(b.Create(t.Context(), spec)); again.ID != r.ID {
		t.Fatalf("%+v", again)
	}
	spec.Name = "another"
	_, err := b.Create(t.Context(), spec)
	want(t, err, backend.ErrSnapshotNotFound)
}

func snapshotConcurrent(t *testing.T, s Setup, b snapshotting) {
	v := s.small(t, b, "a")
	var wg sync.WaitGroup
	got := make([]string, 8)
	for i := range got {
		wg.Go(func() {
			x, err := b.CreateSnapshot(t.Context(), backend.SnapshotSpec{Name: "same", Volume: v.ID})
			if err != nil {
				t.Error(err)
				return
			}
			got[i] = x.ID
			if _, err := b.Create(t.Context(), backend.Spec{Name: "clone", Source: &backend.Source{Volume: v.ID}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, id := range got {
		if id != got[0] {
			t.Fatalf("one name, two snapshots: %q", got)
		}
	}
	if n := len(ids(t, b)); n != 2 {
		t.Fatalf("%d volumes", n)
	}
}
