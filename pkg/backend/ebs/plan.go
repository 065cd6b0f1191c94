package ebs

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/sealvol/sealvol/pkg/backend"
)

// plan describes a volume to create.
type plan struct {
	spec    backend.Spec
	coded   string // the encoded name
	class   class
	gib     int32
	zone    string
	origin  string
	tags    map[string]string
	started time.Time // when the volume was created, by this machine's clock; zero if it was found
	fresh   bool      // this call created it: EC2 did not return an earlier volume
}

// newPlan checks everything that can be checked without EC2.
func (b *Backend) newPlan(spec backend.Spec) (*plan, error) {
	if err := checkName(spec.Name); err != nil {
		return nil, err
	}
	if s := spec.Source; s != nil && (s.Volume == "") == (s.Snapshot == "") {
		return nil, fmt.Errorf("%w: a source must be either a volume or a snapshot", backend.ErrInvalid)
	}
	first, err := b.parseClass(spec.Class, false)
	if err != nil {
		return nil, err
	}
	second, err := b.parseClass(spec.Mutable, true)
	if err != nil {
		return nil, err
	}
	p := &plan{spec: spec, coded: encodeValue(spec.Name), class: first.with(second)}
	if p.gib, err = sizeFor(spec.RequiredBytes, spec.LimitBytes, defaultSizeGiB); err != nil {
		return nil, err
	}
	return p, nil
}

func checkName(name string) error {
	if name == "" || len(name) > maxName || !utf8.ValidString(name) {
		return fmt.Errorf("%w: a name must have 1 to %d bytes of UTF-8", backend.ErrInvalid, maxName)
	}
	return nil
}

// sizeFor returns a size in GiB for a range of bytes; standard is the default if required is 0.
func sizeFor(required, limit, standard int64) (int32, error) {
	if required < 0 || limit < 0 || limit > 0 && required > limit {
		return 0, fmt.Errorf("%w: malformed range of sizes", backend.ErrInvalid)
	}
	if required > math.MaxInt32*int64(gib) {
		return 0, fmt.Errorf("%w: larger than the maximum size of an EBS volume", backend.ErrOutOfRange)
	}
	n := (required + gib - 1) / gib
	if n == 0 {
		n = standard
		if limit > 0 {
			n = min(n, limit/gib)
		}
	}
	if n == 0 || limit > 0 && n*gib > limit {
		return 0, fmt.Errorf("%w: EBS volumes have whole GiB, and none lies between %d and %d bytes", backend.ErrOutOfRange, required, limit)
	}
	return int32(n), nil
}

// matches tells whether a volume has the requested properties. ErrExists.
func matches(v types.Volume, p *plan) error {
	tags := tagMap(v.Tags)
	params, err := paramsOf(tags)
	if err != nil {
		return err
	}
	size := int64(aws.ToInt32(v.Size)) * gib
	differs := func(what string) error { return fmt.Errorf("%w: its %s differs", backend.ErrExists, what) }
	want := ""
	if s := p.spec.Source; s != nil {
		want = s.Volume + s.Snapshot
	}
	switch {
	case size < p.spec.RequiredBytes || p.spec.LimitBytes > 0 && size > p.spec.LimitBytes:
		return differs("size")
	case !maps.Equal(params, p.spec.Parameters):
		return differs("set of parameters")
	case tags[tagClass] != classOf(p.spec.Class, p.spec.Mutable):
		return differs("class")
	case tags[tagSource] != want:
		return differs("source")
	}
	if len(p.spec.Requisite) == 0 {
		return nil
	}
	for _, place := range p.spec.Requisite {
		if z, err := zoneOf(place); err == nil && (z == "" || z == aws.ToString(v.AvailabilityZone)) {
			return nil
		}
	}
	return differs("zone")
}

// complete determines what requires EC2: source, zone, tags.
func (b *Backend) complete(ctx context.Context, p *plan) error {
	zone := ""
	if s := p.spec.Source; s != nil {
		least, err := b.source(ctx, p, &zone)
		if err != nil {
			return err
		}
		if p.spec.RequiredBytes == 0 || p.gib < least {
			p.gib = least
		}
		if l := p.spec.LimitBytes; l > 0 && int64(p.gib)*gib > l {
			return fmt.Errorf("%w: the source has %d GiB", backend.ErrOutOfRange, least)
		}
	}
	zone, err := b.zoneFor(ctx, p.spec, zone)
	if err != nil {
		return err
	}
	tags, err := b.tagsFor(p.spec.Name, p.origin, p.spec.Parameters, p.class.tags, p.spec.For)
	if err != nil {
		return err
	}
	tags[tagClass] = classOf(p.spec.Class, p.spec.Mutable)
	if s := p.spec.Source; s != nil {
		tags[tagSource] = s.Volume + s.Snapshot
	}
	p.zone, p.tags = zone, tags
	return nil
}

// source checks the source and returns its size.
func (b *Backend) source(ctx context.Context, p *plan, zone *string) (gib32 int32, err error) {
	if id := p.spec.Source.Snapshot; id != "" {
		s, err := b.GetSnapshot(ctx, id)
		if err != nil {
			return 0, err
		}
		if s.State == backend.SnapshotFailed {
			return 0, fmt.Errorf("%w: the source snapshot %s failed (%s) and has no data; use another one", backend.ErrInvalid, id, s.Message)
		}
		if s.State != backend.SnapshotReady {
			return 0, fmt.Errorf("%w: the source snapshot is not ready yet; retry later", backend.ErrBusy)
		}
		p.origin = s.Origin
		return int32(s.SizeBytes / gib), nil
	}
	v, err := b.volume(ctx, p.spec.Source.Volume)
	if err != nil {
		return 0, err
	}
	if p.origin = tagMap(v.Tags)[tagOrigin]; p.origin == "" {
		p.origin = p.spec.Source.Volume
	}
	*zone = aws.ToString(v.AvailabilityZone)
	return aws.ToInt32(v.Size), nil
}

// zoneFor chooses the zone: the first preferred one, otherwise the first possible one. A copy of a
// volume must be in the zone of its source.
func (b *Backend) zoneFor(ctx context.Context, spec backend.Spec, only string) (string, error) {
	known, _ := b.regionZones.get(regionKey)
	if z, err := b.chooseZone(spec, only, known); err == nil && !strange(spec, known) {
		return z, nil
	}
	zones, err := b.zones(ctx, known) // there may be a new zone, or one that was not available before
	if err != nil {
		return "", err
	}
	return b.chooseZone(spec, only, zones)
}

// strange tells whether an unknown zone is requested. The node that waits for the volume may be in
// it, and could not use a volume in another zone.
func strange(spec backend.Spec, zones []zone) bool {
	known := zoneNames(zones, true)
	return slices.ContainsFunc(slices.Concat(spec.Preferred, spec.Requisite), func(place backend.Segments) bool {
		z, err := zoneOf(place)
		return err == nil && z != "" && !slices.Contains(known, z)
	})
}

func (b *Backend) chooseZone(spec backend.Spec, only string, all []zone) (string, error) {
	names := zoneNames(all, true)
	usable := func(z string) bool { return slices.Contains(names, z) && (only == "" || z == only) }
	for _, place := range slices.Concat(spec.Preferred, spec.Requisite) {
		z, err := zoneOf(place)
		if err != nil {
			return "", err
		}
		if usable(z) && inRequisite(z, spec.Requisite) {
			return z, nil
		}
	}
	if len(spec.Requisite) > 0 {
		return "", fmt.Errorf("%w: none of the requested zones is available in this region", backend.ErrTopology)
	}
	if only != "" {
		return only, nil
	}
	if b.opt.Zone != "" {
		return b.opt.Zone, nil
	}
	zones := zoneNames(all, false)
	if len(zones) == 0 {
		return "", fmt.Errorf("%w: the region has no zones", backend.ErrTopology)
	}
	h := fnv.New32a() // each retry must choose the same zone, because the client token depends on it
	_, _ = h.Write([]byte(spec.Name))
	return zones[h.Sum32()%uint32(len(zones))], nil
}

func inRequisite(zone string, requisite []backend.Segments) bool {
	return len(requisite) == 0 || slices.ContainsFunc(requisite, func(s backend.Segments) bool {
		z, err := zoneOf(s)
		return err == nil && z == zone
	})
}

// regionKey is the only key of regionZones.
const regionKey = "zones"

// zone is a zone of the region.
type zone struct {
	name string
	edge bool // a Local Zone or similar: it has few volume types, and is only used on request
}

func zoneNames(zones []zone, edge bool) (names []string) {
	for _, z := range zones {
		if edge || !z.edge {
			names = append(names, z.name)
		}
	}
	return names
}

// zones returns the available zones of the region that the account may use, sorted. They rarely
// change, so they are requested once, and again by a caller that does not find its zone in known.
// Concurrent callers share one request.
func (b *Backend) zones(ctx context.Context, known []zone) ([]zone, error) {
	unlock, err := b.onceLocks.lock(ctx, regionKey)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if now, ok := b.regionZones.get(regionKey); ok && !slices.Equal(now, known) {
		return now, nil // another caller has just asked
	}
	out, err := b.ec2.DescribeAvailabilityZones(ctx, &ec2.DescribeAvailabilityZonesInput{Filters: []types.Filter{filter("state", "available")}})
	if err != nil {
		return nil, translate("DescribeAvailabilityZones", err)
	}
	var zones []zone
	for _, z := range out.AvailabilityZones {
		kind := cmp.Or(aws.ToString(z.ZoneType), ordinaryZone)
		zones = append(zones, zone{aws.ToString(z.ZoneName), kind != ordinaryZone})
	}
	slices.SortFunc(zones, func(a, b zone) int { return cmp.Compare(a.name, b.name) })
	b.regionZones.set(regionKey, zones)
	return zones, nil
}

// ordinaryZone is the type of all zones except Local Zones, Wavelength Zones and future kinds.
const ordinaryZone = "availability-zone"
