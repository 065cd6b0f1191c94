package ebs

import (
	"errors"
	"fmt"
	"testing"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

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

// TestEdgeZones: Local Zones and similar zones that an account has opted into are used only on
// request.
func TestEdgeZones(t *testing.T) {
	s := newEC2(t, ec2test.Options{Zones: []string{"x-1a"}, EdgeZones: map[string]string{"x-1-lax-1a": "local-zone", "x-1-wl1-lax-1": "wavelength-zone"}, Region: "x-1"}, false)
	o := options(s)
	o.Zone = ""
	b := open(t, o)
	for i := range 12 {
		if z := mustCreate(t, b, spec(fmt.Sprint("v", i))).Topology[0][zoneKey]; z != "x-1a" {
			t.Errorf("made in %s, for which nobody asked", z)
		}
	}
	sp := spec("there")
	sp.Requisite = []backend.Segments{{zoneKey: "x-1-lax-1a"}}
	if z := mustCreate(t, b, sp).Topology[0][zoneKey]; z != "x-1-lax-1a" {
		t.Error("made in ", z)
	}
}

// TestZoneComesBack: a zone that was not available when the zones were fetched is not skipped in
// favour of another possible zone: the pod's node is in the first preferred one.
func TestZoneComesBack(t *testing.T) {
	s := newEC2(t, ec2test.Options{Zones: []string{"x-1a", "x-1b", "x-1c"}, Region: "x-1"}, false)
	b := open(t, options(s))
	b.regionZones.set(regionKey, []zone{{name: "x-1a"}, {name: "x-1b"}})
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
