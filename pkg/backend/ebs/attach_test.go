package ebs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

// attachCalls returns the requested device names.
func attachCalls(s *ec2test.Server) (names []string) {
	for _, c := range s.Calls() {
		if c.Action == "AttachVolume" {
			names = append(names, c.Params.Get("Device"))
		}
	}
	return names
}

// TestDeviceNames: many concurrent attachments get different names, and none that is in use.
func TestDeviceNames(t *testing.T) {
	s := newEC2(t, ec2test.Options{Delays: slow}, false)
	b := open(t, options(s))
	s.AttachForeign(nodeA, "/dev/xvdab")
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[string]string{}
	for i := range 20 {
		wg.Go(func() {
			v, err := b.Create(t.Context(), spec(fmt.Sprint("v", i)))
			if err != nil {
				t.Error(err)
				return
			}
			m, err := b.Attach(t.Context(), v.ID, nodeA, false)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if other := got[m[attachedPath]]; other != "" {
				t.Errorf("%s and %s at %s", v.ID, other, m[attachedPath])
			}
			got[m[attachedPath]] = v.ID
		})
	}
	wg.Wait()
	if names := attachCalls(s); len(names) != 20 || slices.Contains(names, "/dev/xvdab") {
		t.Errorf("%d names asked for: %v", len(names), names)
	}
}

// TestNameInUse: describes do not show an attachment that another program made. EC2 refuses the
// name, the driver takes another one, and uses the bad name last.
func TestNameInUse(t *testing.T) {
	late := slow
	late.Lag = time.Second
	s := newEC2(t, ec2test.Options{}, false)
	b := open(t, options(s))
	v, w := mustCreate(t, b, spec("a")), mustCreate(t, b, spec("b"))
	s.SetDelays(late)
	foreign := s.AttachForeign(nodeA, "/dev/xvdaa")
	go s.SetDelays(ec2test.Delays{}) // whether this is before or after the choice, the attachment works
	m := must(b.Attach(t.Context(), v.ID, nodeA, false))
	if m[attachedPath] == "/dev/xvdaa" {
		t.Fatal("two at one name")
	}
	b.names.spoil(nodeB, "/dev/xvdaa")
	if m := must(b.Attach(t.Context(), w.ID, nodeB, false)); m[attachedPath] != "/dev/xvdab" {
		t.Fatal(m)
	}
	_ = foreign
}

// TestBadNameIsLast: a name that failed is only used if no other is left.
func TestBadNameIsLast(t *testing.T) {
	var a nameAllocator
	a.bad.last = time.Hour
	i := must(open(t, options(newEC2(t, ec2test.Options{}, false))).instance(t.Context(), nodeA))
	seen := map[string]bool{}
	a.spoil(nodeA, "/dev/xvdaa")
	for n := range len(deviceNames) {
		name, _, _, err := a.choose(i, fmt.Sprint("v", n), 1)
		if err != nil {
			wantErr(t, err, backend.ErrTooManyAttached)
			if len(seen) < 100 || !seen["/dev/xvdaa"] {
				t.Fatalf("%d names", len(seen))
			}
			return
		}
		if seen[name] || name == "/dev/xvdaa" && n < 100 {
			t.Fatalf("%d: %s", n, name)
		}
		seen[name] = true
	}
	if !seen["/dev/xvdaa"] {
		t.Fatal("never used")
	}
}

// TestStuckAttaching: a hanging attachment is detached, and made at another name.
func TestStuckAttaching(t *testing.T) {
	s := newEC2(t, ec2test.Options{Delays: slow}, false)
	b := open(t, options(s))
	v := mustCreate(t, b, spec("a"))
	s.StickAttach("/dev/xvdaa", true)
	m := must(b.Attach(t.Context(), v.ID, nodeA, false))
	if m[attachedPath] != "/dev/xvdab" {
		t.Fatal(m)
	}
	if names := attachCalls(s); !slices.Equal(names, []string{"/dev/xvdaa", "/dev/xvdab"}) {
		t.Fatal(names)
	}
}

// TestSlowDetach: the driver waits for a volume that is detaching from another node. A caller that
// gives up leaves nothing behind.
func TestSlowDetach(t *testing.T) {
	s := newEC2(t, ec2test.Options{}, false)
	b := open(t, options(s))
	v := mustCreate(t, b, spec("a"))
	must(b.Attach(t.Context(), v.ID, nodeA, false))
	s.StickDetach(true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wantErr(t, b.Detach(ctx, v.ID, nodeA), context.DeadlineExceeded)
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := b.Attach(ctx, v.ID, nodeB, false)
	wantErr(t, err, context.DeadlineExceeded)
	wantErr(t, b.Delete(t.Context(), v.ID), backend.ErrBusy)
	done := make(chan error)
	go func() {
		_, err := b.Attach(t.Context(), v.ID, nodeB, false)
		done <- err
	}()
	s.Update(v.ID, "detach")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := s.Volumes()[0].Instances; !slices.Equal(got, []string{nodeB}) {
		t.Fatal(got)
	}
}

// TestAttachRaces tests situations that users meet.
func TestAttachRaces(t *testing.T) {
	s := newEC2(t, ec2test.Options{Delays: slow}, false)
	o := options(s)
	b := open(t, o)
	v := mustCreate(t, b, spec("a"))
	attach := func(node string) error {
		_, err := b.Attach(t.Context(), v.ID, node, false)
		return err
	}
	on := func(want ...string) {
		t.Helper()
		if got := s.Volumes()[0].Instances; !slices.Equal(got, want) {
			t.Fatalf("attached to %v, want %v", got, want)
		}
	}
	// Another zone.
	wantErr(t, attach(farC), backend.ErrTopology)
	wantErr(t, attach("i-0000000000000000f"), backend.ErrNodeNotFound)
	// A pod moves while the volume is still on the other node: the driver never uses force.
	if err := attach(nodeA); err != nil {
		t.Fatal(err)
	}
	wantErr(t, attach(nodeB), backend.ErrAttachedElsewhere)
	on(nodeA)
	// Quick moves between nodes.
	for range 3 {
		for _, move := range [][2]string{{nodeA, nodeB}, {nodeB, nodeA}} {
			if err := b.Detach(t.Context(), v.ID, move[0]); err != nil {
				t.Fatal(err)
			}
			if err := attach(move[1]); err != nil {
				t.Fatal(err)
			}
			on(move[1])
		}
	}
	// A late detach from a node that no longer has the volume.
	if err := b.Detach(t.Context(), v.ID, nodeB); err != nil {
		t.Fatal(err)
	}
	on(nodeA)
	// The node is gone: EC2 has detached, and Kubernetes detaches after that.
	s.Terminate(nodeA)
	for range 2 {
		if err := b.Detach(t.Context(), v.ID, nodeA); err != nil {
			t.Fatal(err)
		}
	}
	wantErr(t, attach(nodeA), backend.ErrNodeNotFound)
	if err := attach(nodeB); err != nil {
		t.Fatal(err)
	}
	twoAttach(t, s, b, v.ID)
	// The volume was deleted by somebody else.
	s.Update(v.ID, "detach")
	s.Update(v.ID, "delete")
	for _, err := b.Get(t.Context(), v.ID); !errors.Is(err, backend.ErrNotFound); _, err = b.Get(t.Context(), v.ID) {
	}
	wantErr(t, attach(nodeB), backend.ErrNotFound)
	if err := errors.Join(b.Detach(t.Context(), v.ID, nodeB), b.Delete(t.Context(), v.ID)); err != nil {
		t.Fatal(err)
	}
}

// twoAttach makes two controllers attach a volume at the same time, as during a failover: one
// succeeds, and both return true results.
func twoAttach(t *testing.T, s *ec2test.Server, b *Backend, id string) {
	t.Helper()
	if err := b.Detach(t.Context(), id, ""); err != nil {
		t.Fatal(err)
	}
	nodes := []string{nodeB, s.AddInstance(ec2test.Instance{})}
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, node := range nodes {
		other := open(t, options(s))
		wg.Go(func() { _, errs[i] = other.Attach(t.Context(), id, node, false) })
	}
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs...), backend.ErrAttachedElsewhere) {
		t.Fatal(errs)
	}
	winner := nodes[0]
	if errs[0] != nil {
		winner = nodes[1]
	}
	if got := s.Volumes()[0].Instances; !slices.Equal(got, []string{winner}) {
		t.Fatalf("attached to %v, want %v", got, winner)
	}
}

// TestDetachBehindDescribes: an attachment whose answer was lost and that describes do not show yet
// is detached anyway.
func TestDetachBehindDescribes(t *testing.T) {
	s := newEC2(t, ec2test.Options{}, false)
	o := options(s)
	v := mustCreate(t, open(t, o), spec("a"))
	s.SetDelays(ec2test.Delays{Lag: quick.Settle / 2})
	for _, err := open(t, o).Get(t.Context(), v.ID); err != nil; _, err = open(t, o).Get(t.Context(), v.ID) {
		wantErr(t, err, backend.ErrNotFound) // until the volume itself is visible
	}
	lose(s, "AttachVolume", 1, ec2test.Fault{Lost: true})
	_, err := open(t, o).Attach(t.Context(), v.ID, nodeA, false)
	wantErr(t, err, backend.ErrUnavailable)
	if err := open(t, o).Detach(t.Context(), v.ID, nodeA); err != nil {
		t.Fatal(err)
	}
	if got := s.Volumes()[0].Instances; len(got) != 0 {
		t.Fatal("still attached to ", got)
	}
}

// TestMetadata: the sources are the metadata service (version 2), then Kubernetes, then the flags;
// otherwise it is an error.
func TestMetadata(t *testing.T) {
	s := newEC2(t, ec2test.Options{}, false)
	o := options(s)
	o.Zone = ""
	info := must(open(t, o).Info(t.Context()))
	if info.ID != nodeA || !maps.Equal(info.Topology, segmentsOf(s.Region()+"a")) {
		t.Fatalf("%+v", info)
	}
	none := o
	none.MetadataEndpoint = ""
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	_, err := open(t, none).Info(t.Context())
	wantErr(t, err, backend.ErrUnavailable)
	kube := none
	kube.NodeObject = func(context.Context) (NodeObject, error) {
		return NodeObject{ProviderID: "aws:///" + s.Region() + "b/" + farC, Labels: map[string]string{zoneKey: s.Region() + "b", labelType: "m5.large"}}, nil
	}
	if info := must(open(t, kube).Info(t.Context())); info.ID != farC || info.Topology[zoneKeyOwn] != s.Region()+"b" || info.MaxVolumes != 26 {
		t.Fatalf("%+v", info)
	}
	// The user sets the order of the sources; a source that is left out is not asked.
	ordered := o
	ordered.NodeObject = kube.NodeObject
	for sources, want := range map[string]string{"imds kubernetes": nodeA, "kubernetes imds": farC, "kubernetes": farC, "imds": nodeA} {
		ordered.Metadata = strings.Fields(sources)
		if info := must(open(t, ordered).Info(t.Context())); info.ID != want {
			t.Errorf("%s: %+v", sources, info)
		}
	}
	ordered.NodeObject, ordered.Metadata = nil, []string{SourceKubernetes}
	_, err = open(t, ordered).Info(t.Context())
	wantErr(t, err, backend.ErrUnavailable)
	ordered.Metadata = []string{"dns"}
	if _, err := Open(t.Context(), ordered); err == nil {
		t.Error("a source that there is not")
	}
	for _, n := range []NodeObject{{}, {ProviderID: "kind://x/y", Labels: map[string]string{zoneKey: "z"}}, {ProviderID: "aws:///z/" + nodeA}} {
		kube.NodeObject = func(context.Context) (NodeObject, error) { return n, nil }
		_, err := open(t, kube).Info(t.Context())
		wantErr(t, err, backend.ErrUnavailable)
	}
	none.Instance, none.Zone = nodeB, "somewhere"
	if info := must(open(t, none).Info(t.Context())); info.ID != nodeB || info.Topology[zoneKey] != "somewhere" {
		t.Fatalf("%+v", info)
	}
	// The region comes from there, too.
	t.Setenv("AWS_REGION", "")
	region := o
	region.Region = ""
	mustCreate(t, open(t, region), spec("a"))
	region.MetadataEndpoint = ""
	if _, err := Open(t.Context(), region); !errors.Is(err, errNoRegion) {
		t.Fatal(err)
	}
}
