package ebs

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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

// must returns the result of a call that cannot fail in these tests.
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

// lose makes the n-th call of an action fail with a fault.
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

// TestClasses creates volumes of each type. What EC2 refuses is refused with EC2's message.
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
		{class: "type=gp2", want: "gp2 10 100 0"},
		{class: "type=gp3 iops=4000 throughput=500", want: "gp3 10 4000 500"},
		{class: "type=io1 iops=500", want: "io1 10 500 0"},
		{class: "type=io2 iopsPerGB=50", want: "io2 10 500 0"},
		{class: "type=io2 iopsPerGB=1", want: "io2 10 100 0"},                       // the minimum
		{class: "type=gp3 iopsPerGB=2000", want: "gp3 10 5000 125"},                 // the maximum for its size
		{class: "type=io1 iopsPerGB=100", want: "io1 10 500 0"},                     // also for the next one
		{class: "type=io1 iopsPerGB=100", gib: 2000, want: "io1 2000 64000 0"},      // the maximum of all sizes
		{class: "type=gp3 iopsPerGB=500", gib: 1000, want: "gp3 1000 80000 125"},    // the maximum
		{class: "type=gp3", mutable: "type=io2 iops=200", want: "io2 10 200 0"},     // the VolumeAttributesClass takes precedence
		{class: "type=io2 iopsPerGB=50", mutable: "iops=200", want: "io2 10 200 0"}, // also over a rate
		{class: "type=st1", gib: -1, want: "st1 125 0 0"},                           // the minimum, if no size is requested
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
		{class: "kmsKeyId=k", err: backend.ErrInvalid}, // not encrypted
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
			t.Errorf("%s, %s: %s instead of %s", c.class, c.mutable, got, c.want)
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

// TestBurntToken: a volume that EC2 accepts but does not create burns its client token.
func TestBurntToken(t *testing.T) {
	for _, o := range []ec2test.Options{{}, {Ghosts: true}} {
		o.Delays, o.KMSKeys = slow, []string{"good"}
		s := newEC2(t, o, false)
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
}

// TestKeyRefused: EC2 accepts a volume and an attachment whose key KMS refuses, and then drops them
// silently: no describe has ever shown the volume. The error names the key and says what to do, and
// one call creates one volume.
func TestKeyRefused(t *testing.T) {
	s := newEC2(t, ec2test.Options{KMSKeys: []string{"good"}}, false)
	b := open(t, options(s))
	named := func(err, kind error, key string) {
		t.Helper()
		wantErr(t, err, kind)
		if !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "docs/iam/kms.json") {
			t.Errorf("unclear: %v", err)
		}
	}
	sp := spec("a")
	sp.Class = parse("encrypted=true kmsKeyId=bad")
	_, err := b.Create(t.Context(), sp)
	named(err, backend.ErrInvalid, "bad")
	if n := s.Counts()["CreateVolume"]; n != 1 {
		t.Errorf("%d volumes asked for", n)
	}
	sp.Class = parse("encrypted=true kmsKeyId=good")
	v := mustCreate(t, b, sp)
	s.DisableKey("good")
	_, err = b.Attach(t.Context(), v.ID, nodeA, false)
	named(err, backend.ErrUnavailable, "good")
}

// clock is EC2's clock, which a test can advance.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) forward(d time.Duration) { c.ahead.Add(int64(d)) }

// TestDeletedName: EC2 refuses the client token of the deleted volume, or returns the volume's id
// again, for as long as it remembers the token.
func TestDeletedName(t *testing.T) {
	for _, ghosts := range []bool{false, true} {
		t.Run(fmt.Sprint("ghosts=", ghosts), func(t *testing.T) {
			var c clock
			s := newEC2(t, ec2test.Options{Delays: slow, Ghosts: ghosts, Now: c.now}, false)
			o := options(s)
			if !ghosts {
				o.Timing.Settle = time.Hour // EC2 itself says that the volume is gone, so the driver need not wait
			}
			deleteAndRemake(t, s, o, &c)
		})
	}
}

func deleteAndRemake(t *testing.T, s *ec2test.Server, o Options, c *clock) {
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
		c.forward(time.Minute) // a volume with this creation time would have just been created
	}
}

// TestClones: EC2's own default for a copy is gp2, whatever type its source has.
func TestClones(t *testing.T) {
	s := newEC2(t, ec2test.Options{}, false)
	b := open(t, options(s))
	from := spec("from")
	from.Class = parse("type=io2 iops=700")
	src := mustCreate(t, b, from)
	for i, c := range []struct{ class, mutable, want string }{
		{want: "gp3 3000 125"},
		{class: "iops=4000", want: "gp3 4000 125"},
		{mutable: "iops=4000 throughput=500", want: "gp3 4000 500"},
		{class: "iopsPerGB=400", want: "gp3 4000 125"},
		{class: "type=io2 iops=500", want: "io2 500 0"},
		{class: "type=gp2", want: "gp2 100 0"},
	} {
		v, err := b.Create(t.Context(), backend.Spec{Name: fmt.Sprint("v", i), RequiredBytes: 10 * gib, Class: parse(c.class), Mutable: parse(c.mutable), Source: &backend.Source{Volume: src.ID}})
		if err != nil {
			t.Errorf("%s, %s: %v", c.class, c.mutable, err)
			continue
		}
		x := must(b.volume(t.Context(), v.ID))
		if got := fmt.Sprintf("%s %d %d", x.VolumeType, deref(x.Iops), deref(x.Throughput)); got != c.want {
			t.Errorf("%s, %s: %s instead of %s", c.class, c.mutable, got, c.want)
		}
	}
}

// TestVolumeLimit: EC2 checks the account's limit before the token, so retrying a successful call
// fails.
func TestVolumeLimit(t *testing.T) {
	s := newEC2(t, ec2test.Options{Limits: ec2test.Limits{Volumes: 4}, Delays: slow}, false) // three are root volumes
	lose(s, "CreateVolume", 1, ec2test.Fault{Lost: true})
	b := open(t, options(s))
	_, err := b.Create(t.Context(), spec("a"))
	wantErr(t, err, backend.ErrUnavailable)
	mustCreate(t, b, spec("a"))
	_, err = b.Create(t.Context(), spec("b"))
	wantErr(t, err, backend.ErrNoSpace)
	// Also if describes are very outdated.
	late := slow
	late.Lag = quick.Settle / 2
	s2 := newEC2(t, ec2test.Options{Limits: ec2test.Limits{Volumes: 4}, Delays: late}, false)
	lose(s2, "CreateVolume", 1, ec2test.Fault{Lost: true})
	b = open(t, options(s2))
	_, err = b.Create(t.Context(), spec("a"))
	wantErr(t, err, backend.ErrUnavailable)
	mustCreate(t, b, spec("a"))
}

// TestLateDescribes: a retry for another zone, while describes do not show the volume yet, does not
// create a second one.
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

// TestForeign: the driver neither sees nor deletes volumes and snapshots of others.
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

// TestBatches: concurrent requests become one call, and a deleted volume does not spoil the answer
// for others.
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
	// Also if EC2 considers one id malformed.
	for code, message := range map[string]string{codeBadVolume: "Invalid id: \"" + ids[0] + "\"", codeBadValue: "Value (" + ids[0] + ") for parameter volumes is invalid. Expected: 'vol-...'."} {
		s.SetFault(func(c ec2test.Call) ec2test.Fault {
			for i := 1; c.Params.Has(fmt.Sprint("VolumeId.", i)); i++ {
				if c.Params.Get(fmt.Sprint("VolumeId.", i)) == ids[0] {
					return ec2test.Fault{Code: code, Message: message}
				}
			}
			return ec2test.Fault{}
		})
		if got, err := open(t, o).fetchVolumes(t.Context(), ids); err != nil || len(got) != len(ids)-1 {
			t.Fatalf("%s: %d found, %v", code, len(got), err)
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

// TestThrottled: the SDK waits and retries.
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

// TestOneBadRecord: a volume whose tags somebody has spoilt is listed with its attachment, does not
// prevent listing others, and is logged.
func TestOneBadRecord(t *testing.T) {
	s := newEC2(t, ec2test.Options{}, false)
	var out logBuffer
	o := options(s)
	o.Log = slog.New(slog.NewTextHandler(&out, nil))
	b := open(t, o)
	good, bad := mustCreate(t, b, spec("a")), mustCreate(t, b, spec("b"))
	must(b.Attach(t.Context(), bad.ID, nodeA, false))
	s.Update(bad.ID, "mangle")
	all, _, err := b.List(t.Context(), "", 0)
	if err != nil || len(all) != 2 || all[0].ID != good.ID || all[1].ID != bad.ID || all[1].Attachment == nil || all[1].SizeBytes != 10*gib {
		t.Fatal(all, err)
	}
	lines := ""
	for line := range strings.Lines(out.b.String()) {
		if strings.Contains(line, "level=WARN") {
			lines += line
		}
	}
	if !strings.Contains(lines, "volume="+bad.ID) || !strings.Contains(lines, "tags is malformed") || strings.Contains(lines, good.ID) {
		t.Errorf("logged: %q", lines)
	}
	_, err = b.Get(t.Context(), bad.ID)
	wantErr(t, err, backend.ErrDamaged)
}
