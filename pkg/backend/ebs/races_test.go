package ebs

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

// gate blocks the first call of an action until it is opened; reached is closed when the call is
// there.
func gate(s *ec2test.Server, action string) (reached, open chan struct{}) {
	reached, open = make(chan struct{}), make(chan struct{})
	var taken atomic.Bool
	s.SetFault(func(c ec2test.Call) ec2test.Fault {
		if c.Action == action && taken.CompareAndSwap(false, true) {
			close(reached)
			<-open
		}
		return ec2test.Fault{}
	})
	return reached, open
}

// failover is an old controller that does not know yet that a new one works, and a volume.
type failover struct {
	*testing.T
	s        *ec2test.Server
	old, now *Backend
	id       string
}

func (r failover) attach(b *Backend, id, node string) error {
	_, err := b.Attach(r.Context(), id, node, false)
	return err
}

// within runs the old controller's call up to EC2, then does, and then lets the call continue.
func (r failover) within(action string, call func() error, do func()) error {
	reached, open := gate(r.s, action)
	done := make(chan error, 1)
	go func() { done <- call() }()
	<-reached
	do()
	close(open)
	return <-done
}

// failoverCase is what the old controller does, and where the volume is attached afterwards.
type failoverCase struct {
	run  func(r failover)
	want string
}

// Attachments by an old controller.
var failoverAttachments = map[string]failoverCase{
	"its attachment is carried out late": {func(r failover) { // EC2 refuses it
		err := r.within("AttachVolume", func() error { return r.attach(r.old, r.id, nodeA) }, func() {
			if err := errors.Join(r.now.Detach(r.Context(), r.id, nodeA), r.attach(r.now, r.id, nodeB)); err != nil {
				r.Fatal(err)
			}
		})
		wantErr(r.T, err, backend.ErrAttachedElsewhere)
	}, nodeB},
	"its attachment comes between detach and attach": {func(r failover) {
		err := r.within("AttachVolume", func() error { return r.attach(r.old, r.id, nodeA) }, func() {
			if err := r.now.Detach(r.Context(), r.id, nodeA); err != nil {
				r.Fatal(err)
			}
		})
		if err != nil {
			r.Fatal(err)
		}
		err = r.attach(r.now, r.id, nodeB)
		wantErr(r.T, err, backend.ErrAttachedElsewhere)
		if err := errors.Join(r.now.Detach(r.Context(), r.id, nodeA), r.attach(r.now, r.id, nodeB)); err != nil {
			r.Fatal(err)
		}
	}, nodeB},
	"it waits for its attachment": {func(r failover) { // the new one detaches the volume; the old one must not attach it again
		r.s.StickAttach("/dev/xvdaa", true)
		done := make(chan error, 1)
		go func() { done <- r.attach(r.old, r.id, nodeA) }()
		for len(r.s.Volumes()[0].Instances) == 0 {
			if _, err := r.now.Get(r.Context(), r.id); err != nil {
				r.Fatal(err)
			}
		}
		r.s.StickAttach("/dev/xvdaa", false)
		if err := errors.Join(r.now.Detach(r.Context(), r.id, nodeA), r.attach(r.now, r.id, nodeB)); err != nil {
			r.Fatal(err)
		}
		if err := <-done; !errors.Is(err, backend.ErrAttachedElsewhere) && !errors.Is(err, backend.ErrUnavailable) {
			r.Fatal(err)
		}
		if names := attachCalls(r.s); len(names) != 2 {
			r.Fatalf("asked to attach at %v", names)
		}
	}, nodeB},
}

// Other calls of an old controller.
var failoverOthers = map[string]failoverCase{
	"its detaching is carried out late": {func(r failover) { // from a node that no longer has the volume
		if err := r.attach(r.now, r.id, nodeA); err != nil {
			r.Fatal(err)
		}
		err := r.within("DetachVolume", func() error { return r.old.Detach(r.Context(), r.id, nodeA) }, func() {
			if err := errors.Join(r.now.Detach(r.Context(), r.id, nodeA), r.attach(r.now, r.id, nodeB)); err != nil {
				r.Fatal(err)
			}
		})
		if err != nil {
			r.Fatal(err)
		}
	}, nodeB},
	"its deletion is carried out late": {func(r failover) { // EC2 does not delete a volume that is attached again
		err := r.within("DeleteVolume", func() error { return r.old.Delete(r.Context(), r.id) }, func() {
			if err := r.attach(r.now, r.id, nodeB); err != nil {
				r.Fatal(err)
			}
		})
		wantErr(r.T, err, backend.ErrBusy)
	}, nodeB},
	"both expand": {func(r failover) {
		err := r.within("ModifyVolume", func() error { _, err := r.old.Expand(r.Context(), r.id, 20*gib, 0); return err }, func() {
			if n, err := r.now.Expand(r.Context(), r.id, 20*gib, 0); err != nil || n != 20*gib {
				r.Fatal(n, err)
			}
		})
		// EC2 refuses the second one while it works on the first; the retry finds it done.
		for errors.Is(err, backend.ErrUnavailable) {
			_, err = r.old.Expand(r.Context(), r.id, 20*gib, 0)
		}
		if got := r.s.Volumes()[0].GiB; err != nil || got != 20 {
			r.Fatal(got, err)
		}
	}, ""},
	"both create": {func(r failover) {
		var v backend.Volume
		err := r.within("CreateVolume", func() (err error) { v, err = r.old.Create(r.Context(), spec("b")); return err }, func() {
			w, err := r.now.Create(r.Context(), spec("b"))
			if err != nil {
				r.Fatal(err)
			}
			defer func() { v.ID = w.ID }()
		})
		if n := len(r.s.Volumes()); err != nil || n != 2 {
			r.Fatalf("%d volumes, %v", n, err)
		}
	}, ""},
}

// TestFailover: a controller that has lost its leadership still has a running call while the next
// one does what Kubernetes wants now. The volume ends where the new one attached it, or the new one
// gets an error that names the node. The volume is never in two places.
func TestFailover(t *testing.T) {
	cases := maps.Clone(failoverAttachments)
	maps.Copy(cases, failoverOthers)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newEC2(t, ec2test.Options{Delays: slow}, false)
			o := options(s)
			o.Timing.StuckAttach = quick.Patience // otherwise a caller that waits for a stuck attachment detaches it itself on a slow machine
			r := failover{t, s, open(t, o), open(t, o), ""}
			r.id = mustCreate(t, r.now, spec("a")).ID
			for _, err := r.old.Get(t.Context(), r.id); err != nil; _, err = r.old.Get(t.Context(), r.id) {
				wantErr(t, err, backend.ErrNotFound) // until describes show it
			}
			c.run(r)
			want := []string{c.want}
			if c.want == "" {
				want = nil
			}
			if got := s.Volumes()[0].Instances; !slices.Equal(got, want) {
				t.Fatalf("attached to %v, want %v", got, want)
			}
		})
	}
}

// TestGone: the result of each call for a volume that somebody has deleted in the console.
func TestGone(t *testing.T) {
	for name, c := range map[string]struct {
		call func(b *Backend, id string) error
		want error
	}{
		"attach":   {func(b *Backend, id string) error { _, err := b.Attach(t.Context(), id, nodeA, false); return err }, backend.ErrNotFound},
		"detach":   {func(b *Backend, id string) error { return b.Detach(t.Context(), id, nodeA) }, nil},
		"detach *": {func(b *Backend, id string) error { return b.Detach(t.Context(), id, "") }, nil},
		"delete":   {func(b *Backend, id string) error { return b.Delete(t.Context(), id) }, nil},
		"expand":   {func(b *Backend, id string) error { _, err := b.Expand(t.Context(), id, 20*gib, 0); return err }, backend.ErrNotFound},
		"modify":   {func(b *Backend, id string) error { return b.Modify(t.Context(), id, parse("iops=4000")) }, backend.ErrNotFound},
		"snapshot": {func(b *Backend, id string) error {
			_, err := b.CreateSnapshot(t.Context(), backend.SnapshotSpec{Name: "s", Volume: id})
			return err
		}, backend.ErrNotFound},
		"clone": {func(b *Backend, id string) error {
			_, err := b.Create(t.Context(), backend.Spec{Name: "c", Source: &backend.Source{Volume: id}})
			return err
		}, backend.ErrNotFound},
	} {
		for _, lag := range []bool{false, true} { // true: describes still show it
			t.Run(fmt.Sprint(name, lag), func(t *testing.T) {
				s := newEC2(t, ec2test.Options{}, false)
				o := options(s)
				v := mustCreate(t, open(t, o), spec("a"))
				if lag {
					s.SetDelays(ec2test.Delays{Lag: quick.Settle / 2})
					for len(must(ids(open(t, o), t))) == 0 {
					}
				}
				s.Update(v.ID, "delete")
				if err := c.call(open(t, o), v.ID); !errors.Is(err, c.want) {
					t.Fatalf("%v, want %v", err, c.want)
				}
				if n := len(s.Volumes()); n != 0 {
					t.Fatalf("%d volumes", n)
				}
			})
		}
	}
}

func ids(b *Backend, t *testing.T) (list []string, err error) {
	all, _, err := b.List(t.Context(), "", 0)
	for _, v := range all {
		list = append(list, v.ID)
	}
	return list, err
}

// TestNameReuse: a name at which an attachment hung is not used for the next volume, even when it
// is free, and neither is that of a volume that was just detached. On another instance, it is as
// good as any.
func TestNameReuse(t *testing.T) {
	s := newEC2(t, ec2test.Options{Delays: slow}, false)
	o := options(s)
	o.Timing.Settle = quick.Patience // longer than this test
	b := open(t, o)
	v, w, x := mustCreate(t, b, spec("v")), mustCreate(t, b, spec("w")), mustCreate(t, b, spec("x"))
	at := func(id, node string) string {
		t.Helper()
		return must(b.Attach(t.Context(), id, node, false))[attachedPath]
	}
	s.StickAttach("/dev/xvdaa", true)
	if name := at(v.ID, nodeA); name != "/dev/xvdab" {
		t.Fatal(name)
	}
	s.StickAttach("/dev/xvdaa", false)
	if name := at(w.ID, nodeB); name != "/dev/xvdaa" {
		t.Fatal("another machine: ", name)
	}
	if name := at(x.ID, nodeA); name != "/dev/xvdac" {
		t.Fatal(name)
	}
	if err := errors.Join(b.Detach(t.Context(), w.ID, nodeB), b.Detach(t.Context(), x.ID, nodeA)); err != nil {
		t.Fatal(err)
	}
	if name := at(w.ID, nodeA); name != "/dev/xvdad" {
		t.Fatalf("%s: the name of the volume that has just left, or one that is bad", name)
	}
	if name := at(x.ID, nodeB); name != "/dev/xvdab" {
		t.Fatalf("%s: the name of the volume that has just left", name)
	}
}
