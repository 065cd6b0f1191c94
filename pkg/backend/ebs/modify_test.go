package ebs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

// TestModify: expansion and new class in one modification, the quota, and values that contradict
// each other.
func TestModify(t *testing.T) {
	s := newEC2(t, ec2test.Options{Delays: slow}, false)
	o := options(s)
	b := open(t, o)
	v := mustCreate(t, b, spec("a"))
	modify := func(class string) error { return b.Modify(t.Context(), v.ID, parse(class)) }
	var wg sync.WaitGroup
	wg.Go(func() {
		if n, err := b.Expand(t.Context(), v.ID, 20*gib, 0); err != nil || n != 20*gib {
			t.Error(n, err)
		}
	})
	wg.Go(func() {
		if err := modify("type=io2 iops=1000"); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
	if n := s.Counts()["ModifyVolume"]; n != 1 {
		t.Errorf("%d modifications", n)
	}
	if err := modify("type=io2 iops=1000"); err != nil || s.Counts()["ModifyVolume"] != 1 { // done already
		t.Fatal(err)
	}
	errs := make([]error, 2)
	for i, class := range []string{"iops=2000", "iops=3000"} {
		wg.Go(func() { errs[i] = modify(class) })
	}
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs...), backend.ErrUnavailable) {
		t.Fatal(errs)
	}
	wantErr(t, modify("iops=99999999"), backend.ErrInvalid)
	wantErr(t, modify("iopsPerGB=5"), backend.ErrInvalid)
	again := func(f func() error) (err error) { // while EC2 still moves the data of the last modification
		for err = backend.ErrUnavailable; errors.Is(err, backend.ErrUnavailable); {
			err = f()
		}
		return err
	}
	// The answer is lost: the retry finds the result.
	lose(s, "ModifyVolume", 1, ec2test.Fault{Lost: true})
	if err := again(func() error { return modify("iops=4000") }); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		err := again(func() error { return modify(fmt.Sprint("iops=", 5000+i)) })
		if i == 0 && err == nil {
			continue // the fourth of the day
		}
		wantErr(t, err, backend.ErrQuota)
		if !strings.Contains(err.Error(), "24 hours") {
			t.Errorf("unclear: %v", err)
		}
	}
}

// TestModifyType: when the type changes, EC2 forgets all values and uses its own defaults for those
// that the request does not have. The driver sends all wanted values, and one modification is
// enough.
func TestModifyType(t *testing.T) {
	for _, c := range []struct {
		gib         int64
		from, class string
		want        string
		calls       int
		err         error
	}{
		{10, "", "type=io2 iops=3000", "io2 3000 0", 1, nil}, // the value that it has
		{10, "type=io2 iops=5000", "type=gp3 iops=5000", "gp3 5000 125", 1, nil},
		{10, "type=gp3 iops=5000 throughput=500", "type=io2 iops=5000", "io2 5000 0", 1, nil},
		{10, "type=io1 iops=500", "type=io2 iops=500", "io2 500 0", 1, nil},
		{1000, "type=gp2", "type=gp3 iops=3000 throughput=125", "gp3 3000 125", 1, nil}, // EC2's default would be 250 MiB/s
		{1000, "type=gp2", "type=gp3", "gp3 3000 250", 1, nil},
		{10, "", "type=gp3 iops=3000 throughput=125", "gp3 3000 125", 0, nil},         // nothing changes
		{1000, "type=gp2", "type=gp2 iops=3000", "gp2 3000 0", 1, backend.ErrInvalid}, // EC2's own 3000
		{10, "", "type=io1", "gp3 3000 125", 1, backend.ErrInvalid},                   // its default is too high for the size
	} {
		s := newEC2(t, ec2test.Options{Delays: slow}, false)
		b := open(t, options(s))
		v := mustCreate(t, b, backend.Spec{Name: "a", RequiredBytes: c.gib * gib, Class: parse(c.from)})
		err := b.Modify(t.Context(), v.ID, parse(c.class))
		x := s.Volumes()[0]
		if got := fmt.Sprintf("%s %d %d", x.Type, x.IOPS, x.Throughput); !errors.Is(err, c.err) || got != c.want || s.Counts()["ModifyVolume"] != c.calls {
			t.Errorf("%s to %s: %s instead of %s, %d modifications, %v", c.from, c.class, got, c.want, s.Counts()["ModifyVolume"], err)
		}
	}
}

// TestModifyAdjusted: if the result differs from the request, the driver reports it at once and
// makes no second modification.
func TestModifyAdjusted(t *testing.T) {
	s := newEC2(t, ec2test.Options{Delays: slow, Limits: ec2test.Limits{ModifyTo: 4000}}, false)
	b := open(t, options(s))
	v := mustCreate(t, b, spec("a"))
	err := b.Modify(t.Context(), v.ID, parse("iops=5000"))
	wantErr(t, err, backend.ErrInvalid)
	if n := s.Counts()["ModifyVolume"]; n != 1 || !strings.Contains(err.Error(), "4000 IOPS") {
		t.Errorf("%d modifications: %v", n, err)
	}
	m := modification{in: time.Now()}
	if err := m.shown(time.Hour); !errors.Is(err, errNotYet) {
		t.Error(err)
	}
	m.in = time.Now().Add(-2 * time.Hour)
	wantErr(t, m.shown(time.Hour), backend.ErrUnavailable)
}

// TestJoinedApart: a request that EC2 refuses does not make merged requests fail.
func TestJoinedApart(t *testing.T) {
	s := newEC2(t, ec2test.Options{Delays: slow}, false)
	b := open(t, options(s))
	v := mustCreate(t, b, spec("a"))
	var wg sync.WaitGroup
	wg.Go(func() {
		if n, err := b.Expand(t.Context(), v.ID, 20*gib, 0); err != nil || n != 20*gib {
			t.Error(n, err)
		}
	})
	wg.Go(func() {
		if err := b.Modify(t.Context(), v.ID, parse("iops=99999999")); !errors.Is(err, backend.ErrInvalid) {
			t.Error(err)
		}
	})
	wg.Wait()
}

// TestWhileModifying: while EC2 modifies a volume, which may take minutes, it can be detached. EC2
// refuses to attach it, and the driver reports that at once.
func TestWhileModifying(t *testing.T) {
	var c clock
	s := newEC2(t, ec2test.Options{Now: c.now, Delays: ec2test.Delays{Modify: time.Hour}}, false)
	b := open(t, options(s))
	v := mustCreate(t, b, spec("a"))
	must(b.Attach(t.Context(), v.ID, nodeA, false))
	impatient, cancel := context.WithTimeout(t.Context(), 5*quick.Coalesce)
	defer cancel()
	_, err := b.Expand(impatient, v.ID, 20*gib, 0)
	wantErr(t, err, context.DeadlineExceeded)
	soon, cancel := context.WithTimeout(t.Context(), quick.Patience/4)
	defer cancel()
	if err := b.Detach(soon, v.ID, nodeA); err != nil {
		t.Fatal(err)
	}
	_, err = b.Attach(soon, v.ID, nodeB, false)
	wantErr(t, err, backend.ErrUnavailable)
	if !strings.Contains(err.Error(), "MODIFYING") {
		t.Errorf("unclear: %v", err)
	}
	c.forward(2 * time.Hour)
	must(b.Attach(t.Context(), v.ID, nodeB, false))
	if n, err := b.Expand(t.Context(), v.ID, 20*gib, 0); err != nil || n != 20*gib || s.Counts()["ModifyVolume"] != 1 {
		t.Fatal(n, err)
	}
	if got := s.Volumes()[0].Instances; !slices.Equal(got, []string{nodeB}) {
		t.Fatal(got)
	}
}
