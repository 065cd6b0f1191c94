package ebs

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/backendtest"
	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

// spec is a volume of 10 GiB.
func spec(name string) backend.Spec { return backend.Spec{Name: name, RequiredBytes: 10 * gib} }

func mustCreate(t *testing.T, b *Backend, s backend.Spec) backend.Volume {
	t.Helper()
	return backendtest.Must[backend.Volume](t)(b.Create(t.Context(), s))
}

// must is for what cannot fail in these tests.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func wantErr(t *testing.T, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got error %v, want %v", err, target)
	}
}

// lose makes the n-th call of an action a fault.
func lose(s *ec2test.Server, action string, n int, f ec2test.Fault) {
	var mu sync.Mutex
	s.SetFault(func(c ec2test.Call) ec2test.Fault {
		mu.Lock()
		defer mu.Unlock()
		if c.Action == action {
			if n--; n == 0 {
				return f
			}
		}
		return ec2test.Fault{}
	})
}

// TestClasses makes volumes of each type, and what EC2 refuses is refused with EC2's words.
func TestClasses(t *testing.T) {
	s := newEC2(t, ec2test.Options{}, false)
	b := open(t, options(s))
	for i, c := range []struct {
		class, mutable string
		gib            int64 // 10 if 0
		want           string
		err            error
	}{
		{want: "gp3 10 3000 125"},
		{class: "type=gp2", want: "gp2 10 0 0"},
		{class: "type=gp3 iops=4000 throughput=500", want: "gp3 10 4000 500"},
		{class: "type=io1 iops=500", want: "io1 10 500 0"},
		{class: "type=io2 iopsPerGB=50", want: "io2 10 500 0"},
		{class: "type=io2 iopsPerGB=1", want: "io2 10 100 0"},                       // the least that there is
		{class: "type=gp3 iopsPerGB=500", gib: 1000, want: "gp3 1000 80000 125"},    // the most
		{class: "type=gp3", mutable: "type=io2 iops=200", want: "io2 10 200 0"},     // the VolumeAttributesClass wins
		{class: "type=io2 iopsPerGB=50", mutable: "iops=200", want: "io2 10 200 0"}, // over a rate too
		{class: "type=st1", gib: -1, want: "st1 125 0 0"},                           // the least, if no size is asked for
		{class: "type=st1", want: "st1 125 0 0"},                                    // or a smaller one
		{class: "type=standard", want: "standard 10 0 0"},
		{class: "type=gp9", err: backend.ErrInvalid},
		{class: "type=io1", err: backend.ErrInvalid},                       // needs iops
		{class: "type=gp3 iops=1", err: backend.ErrInvalid},                // too few
		{class: "type=gp3 iops=80001", gib: 1000, err: backend.ErrInvalid}, // too many
		{class: "type=io1 iops=501", err: backend.ErrInvalid},              // for 10 GiB
		{class: "type=gp2 iops=3000", err: backend.ErrInvalid},
		{class: "type=gp2 throughput=125", err: backend.ErrInvalid},
		{class: "type=gp3 iops=x", err: backend.ErrInvalid},
		{class: "type=gp3 iops=-5", err: backend.ErrInvalid},
		{class: "type=gp3 iops=5000 iopsPerGB=5", err: backend.ErrInvalid},
		{class: "encrypted=perhaps", err: backend.ErrInvalid},
		{class: "kmsKeyId=k", err: backend.ErrInvalid}, // and not encrypted
		{mutable: "encrypted=true", err: backend.ErrInvalid},
		{class: "type=standard", gib: 1025, err: backend.ErrOutOfRange},
	} {
		sp := spec(fmt.Sprint("v", i))
		sp.Class, sp.Mutable = parse(c.class), parse(c.mutable)
		if c.gib != 0 {
			sp.RequiredBytes = max(c.gib, 0) * gib
		}
		v, err := b.Create(t.Context(), sp)
		if !errors.Is(err, c.err) {
			t.Errorf("%s, %s: %v", c.class, c.mutable, err)
		}
		if err != nil {
			continue
		}
		x := must(b.volume(t.Context(), v.ID))
		got := fmt.Sprintf("%s %d %d %d", x.VolumeType, *x.Size, deref(x.Iops), deref(x.Throughput))
		if got != c.want {
			t.Errorf("%s, %s: %s in place of %s", c.class, c.mutable, got, c.want)
		}
		if again, err := b.Create(t.Context(), sp); err != nil || again.ID != v.ID {
			t.Errorf("%s, %s, again: %v %v", c.class, c.mutable, again, err)
		}
		sp.Class, sp.Mutable = map[string]string{"type": "sc1"}, nil
		if _, err := b.Create(t.Context(), sp); !errors.Is(err, backend.ErrExists) {
			t.Errorf("%s, %s, otherwise: %v", c.class, c.mutable, err)
		}
	}
}

func deref(p *int32) int32 {
	if p == nil {
		return 0
	}
	return *p
}

// parse reads "a=b c=d".
func parse(s string) map[string]string {
	var m map[string]string
	for f := range strings.FieldsSeq(s) {
		if m == nil {
			m = map[string]string{}
		}
		k, v, _ := strings.Cut(f, "=")
		m[k] = v
	}
	return m
}

// TestBurntToken: a volume that EC2 accepts and then does not make burns its client token.
func TestBurntToken(t *testing.T) {
	s := newEC2(t, ec2test.Options{Delays: slow, KMSKeys: []string{"good"}}, false)
	o := options(s)
	b := open(t, o)
	bad := spec("a")
	bad.Class = parse("encrypted=true kmsKeyId=bad")
	for range 2 {
		_, err := b.Create(t.Context(), bad)
		wantErr(t, err, backend.ErrInvalid)
	}
	for _, b := range []*Backend{b, open(t, o)} { // also one that does not know which tokens are burnt
		good := spec("a")
		good.Class = parse("encrypted=true kmsKeyId=good")
		v := mustCreate(t, b, good)
		if got := s.Volumes(); len(got) != 1 || got[0].ID != v.ID {
			t.Fatalf("%+v", got)
		}
	}
}

// TestDeletedName: EC2 gives the id of the deleted volume again, for as long as it knows the token.
func TestDeletedName(t *testing.T) {
	s := newEC2(t, ec2test.Options{Delays: slow}, false)
	o := options(s)
	seen := map[string]bool{}
	for i := range 6 {
		b := open(t, o)
		v := mustCreate(t, b, spec("a"))
		if seen[v.ID] {
			t.Fatal("a deleted volume's id returned")
		}
		seen[v.ID] = true
		if i%2 == 0 {
			s.Update(v.ID, "delete") // by somebody else
		} else if err := b.Delete(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
		for b = open(t, o); ; { // describes may still show it to another driver
			if _, err := b.Get(t.Context(), v.ID); errors.Is(err, backend.ErrNotFound) {
				break
			}
		}
	}
}

// TestVolumeLimit: EC2 looks at the account's limit before the token, so that the repetition of a call that succeeded fails.
func TestVolumeLimit(t *testing.T) {
	s := newEC2(t, ec2test.Options{Limits: ec2test.Limits{Volumes: 4}, Delays: slow}, false) // three are root volumes
	lose(s, "CreateVolume", 1, ec2test.Fault{Lost: true})
	b := open(t, options(s))
	_, err := b.Create(t.Context(), spec("a"))
	wantErr(t, err, backend.ErrUnavailable)
	mustCreate(t, b, spec("a"))
	_, err = b.Create(t.Context(), spec("b"))
	wantErr(t, err, backend.ErrNoSpace)
	// And if describes are far behind.
	late := slow
	late.Lag = quick.Settle / 2
	s2 := newEC2(t, ec2test.Options{Limits: ec2test.Limits{Volumes: 4}, Delays: late}, false)
	lose(s2, "CreateVolume", 1, ec2test.Fault{Lost: true})
	b = open(t, options(s2))
	_, err = b.Create(t.Context(), spec("a"))
	wantErr(t, err, backend.ErrUnavailable)
	mustCreate(t, b, spec("a"))
}

// TestLateDescribes: a repetition that asks for another zone, while describes do not show the volume yet, makes no second one.
func TestLateDescribes(t *testing.T) {
	late := slow
	late.Lag = quick.Settle / 2
	s := newEC2(t, ec2test.Options{Delays: late}, false)
	lose(s, "CreateVolume", 1, ec2test.Fault{Lost: true})
	o := options(s)
	a, z := segmentsOf(s.Region()+"a"), segmentsOf(s.Region()+"b")
	sp := spec("a")
	sp.Requisite, sp.Preferred = []backend.Segments{a, z}, []backend.Segments{a}
	_, err := open(t, o).Create(t.Context(), sp)
	wantErr(t, err, backend.ErrUnavailable)
	sp.Preferred = []backend.Segments{z, a}
	v := mustCreate(t, open(t, o), sp)
	if got := s.Volumes(); len(got) != 1 || v.Topology[0][zoneKey] != s.Region()+"a" {
		t.Fatalf("%+v, %v", got, v)
	}
	sp.Requisite = []backend.Segments{z}
	_, err = open(t, o).Create(t.Context(), sp)
	wantErr(t, err, backend.ErrExists)
}

func TestZones(t *testing.T) {
	s := newEC2(t, ec2test.Options{Zones: []string{"x-1a", "x-1b", "x-1c"}, Region: "x-1"}, false)
	o := options(s)
	o.Zone = ""
	b := open(t, o)
	used := map[string]bool{}
	for i := range 12 {
		v := mustCreate(t, b, spec(fmt.Sprint("v", i)))
		used[v.Topology[0][zoneKey]] = true
	}
	if len(used) != 3 {
		t.Errorf("not spread: %v", used)
	}
	for i, c := range []struct {
		requisite, preferred []backend.Segments
		want                 string
		err                  error
	}{
		{requisite: []backend.Segments{{zoneKey: "x-1c"}}, want: "x-1c"},
		{requisite: []backend.Segments{{zoneKeyOwn: "x-1b"}}, want: "x-1b"},
		{requisite: []backend.Segments{{zoneKey: "x-1a"}, {zoneKey: "x-1b"}}, preferred: []backend.Segments{{zoneKey: "x-1b"}}, want: "x-1b"},
		{requisite: []backend.Segments{{zoneKey: "x-1a"}}, preferred: []backend.Segments{{zoneKey: "x-1b"}}, want: "x-1a"},
		{requisite: []backend.Segments{{zoneKey: "elsewhere"}}, err: backend.ErrTopology},
		{requisite: []backend.Segments{{zoneKey: "x-1a", zoneKeyOwn: "x-1b"}}, err: backend.ErrInvalid},
	} {
		sp := spec(fmt.Sprint("z", i))
		sp.Requisite, sp.Preferred = c.requisite, c.preferred
		v, err := b.Create(t.Context(), sp)
		if !errors.Is(err, c.err) || err == nil && v.Topology[0][zoneKey] != c.want {
			t.Errorf("%d: %v %v", i, v.Topology, err)
		}
	}
}

// TestZoneComesBack: a zone that was out of order, or not open to the account, when zones were asked for is not passed over for another one that the volume may be
// in too: the pod's node is in the first that is preferred.
func TestZoneComesBack(t *testing.T) {
	s := newEC2(t, ec2test.Options{Zones: []string{"x-1a", "x-1b", "x-1c"}, Region: "x-1"}, false)
	b := open(t, options(s))
	b.regionZones.set(regionKey, []string{"x-1a", "x-1b"})
	all := []backend.Segments{{zoneKey: "x-1a"}, {zoneKey: "x-1b"}, {zoneKey: "x-1c"}}
	for i, first := range []string{"x-1b", "x-1c", "x-1c"} {
		sp := spec(fmt.Sprint("v", i))
		sp.Requisite, sp.Preferred = all, append([]backend.Segments{{zoneKey: first}}, all...)
		if i == 0 {
			sp.Requisite, sp.Preferred = all[:2], sp.Preferred[:1]
		}
		if z := mustCreate(t, b, sp).Topology[0][zoneKey]; z != first {
			t.Errorf("%s is preferred, and it is made in %s", first, z)
		}
		if n, want := s.Counts()["DescribeAvailabilityZones"], min(i, 1); n != want {
			t.Errorf("asked for zones %d times, want %d", n, want)
		}
	}
}

// TestForeign: volumes and snapshots of others are not ours to see or delete.
func TestForeign(t *testing.T) {
	s := newEC2(t, ec2test.Options{}, false)
	o := options(s)
	b := open(t, o)
	o.Cluster = "other"
	other := open(t, o)
	v, theirs := mustCreate(t, b, spec("a")), mustCreate(t, other, spec("b"))
	snap := must(other.CreateSnapshot(t.Context(), backend.SnapshotSpec{Name: "s", Volume: theirs.ID}))
	if list, _, err := b.List(t.Context(), "", 0); err != nil || len(list) != 1 || list[0].ID != v.ID {
		t.Fatal(list, err)
	}
	if list, _, err := b.ListSnapshots(t.Context(), "", "", 0); err != nil || len(list) != 0 {
		t.Fatal(list, err)
	}
	_, err := b.Attach(t.Context(), theirs.ID, nodeA, false)
	wantErr(t, err, backend.ErrNotFound)
	_, err = b.Expand(t.Context(), theirs.ID, 20*gib, 0)
	wantErr(t, err, backend.ErrNotFound)
	wantErr(t, b.Delete(t.Context(), theirs.ID), backend.ErrInvalid)
	wantErr(t, b.DeleteSnapshot(t.Context(), snap.ID), backend.ErrInvalid)
	_, err = b.CreateSnapshot(t.Context(), backend.SnapshotSpec{Name: "s2", Volume: theirs.ID})
	wantErr(t, err, backend.ErrNotFound)
	if len(s.Volumes()) != 2 || len(s.Snapshots()) != 1 {
		t.Fatal(s.Volumes(), s.Snapshots())
	}
}

// TestBatches: questions that come together are one call, and one volume that is gone does not spoil the answer for others.
func TestBatches(t *testing.T) {
	s := newEC2(t, ec2test.Options{}, false)
	o := options(s)
	o.Timing.Batch = quick.PollMost
	b := open(t, o)
	var ids []string
	for i := range 4 {
		ids = append(ids, mustCreate(t, b, spec(fmt.Sprint("v", i))).ID)
	}
	gone := []string{"vol-00000000000000001", "vol-00000000000000002"}
	for round := range 2 {
		before := s.Counts()["DescribeVolumes"]
		var wg sync.WaitGroup
		for range 50 {
			for _, id := range append(append([]string(nil), ids...), gone...) {
				wg.Go(func() {
					_, err := b.Get(t.Context(), id)
					if missing := strings.HasPrefix(id, "vol-000000000000000"); missing != errors.Is(err, backend.ErrNotFound) || !missing && err != nil {
						t.Errorf("%s: %v", id, err)
					}
				})
			}
		}
		wg.Wait()
		calls := s.Counts()["DescribeVolumes"] - before
		t.Logf("round %d: %d calls for %d questions", round, calls, 50*6)
		if calls > 12 {
			t.Errorf("%d calls", calls)
		}
	}
	// Also if EC2 does not say which one is unknown.
	s.SetFault(func(c ec2test.Call) ec2test.Fault {
		for i := 1; c.Params.Has(fmt.Sprint("VolumeId.", i)); i++ {
			if strings.HasSuffix(c.Params.Get(fmt.Sprint("VolumeId.", i)), "9") {
				return ec2test.Fault{Code: codeVolumeGone, Message: "one of them is not there"}
			}
		}
		return ec2test.Fault{}
	})
	got, err := b.fetchVolumes(t.Context(), append([]string{"vol-00000000000000009"}, ids...))
	if known := countNot9(ids); err != nil || len(got) != known {
		t.Fatalf("%d of %d found, %v", len(got), known, err)
	}
}

func countNot9(ids []string) (n int) {
	for _, id := range ids {
		if !strings.HasSuffix(id, "9") {
			n++
		}
	}
	return n
}

// TestThrottled: the SDK waits and repeats.
func TestThrottled(t *testing.T) {
	s := newEC2(t, ec2test.Options{Limits: ec2test.Limits{PerSecond: 40, Burst: 2}}, false)
	o := options(s)
	o.MaxAttempts = 10
	b := open(t, o)
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			if _, err := b.Create(t.Context(), spec(fmt.Sprint("v", i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s.SetFault(func(ec2test.Call) ec2test.Fault {
		return ec2test.Fault{Code: "RequestLimitExceeded", Status: http.StatusServiceUnavailable}
	})
	o.MaxAttempts = 1
	_, err := open(t, o).Create(t.Context(), spec("last"))
	wantErr(t, err, backend.ErrUnavailable)
}

// TestSnapshotTwice: EC2 has no token for snapshots. A lost answer leaves none that nobody knows of.
func TestSnapshotTwice(t *testing.T) {
	for name, f := range map[string]ec2test.Fault{"lost": {Lost: true}, "dropped": {Drop: true}, "failed": {Code: "InternalError", Status: 500}} {
		t.Run(name, func(t *testing.T) {
			s := newEC2(t, ec2test.Options{Delays: slow}, false)
			o := options(s)
			o.MaxAttempts = 5 // which are not made: a repetition would be a second snapshot
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

// TestTwoSnapshotsOfOneName, as two drivers that overlap may leave: the older one counts, the younger one goes.
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
