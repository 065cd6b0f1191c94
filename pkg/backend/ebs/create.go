package ebs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go/middleware"

	"github.com/sealvol/sealvol/pkg/backend"
)

const (
	maxName        = 128 // bytes
	defaultSizeGiB = 8
	// maxTokens is how many burnt tokens one call steps over.
	maxTokens = 8
)

// errBurnt: the client token belongs to a volume that is gone.
var errBurnt = errors.New("the client token is burnt")

// plan is a volume that is to be made.
type plan struct {
	spec    backend.Spec
	coded   string // the name, encoded
	class   class
	gib     int32
	zone    string
	origin  string
	tags    map[string]string
	started time.Time
}

// Create implements backend.Controller.
func (b *Backend) Create(ctx context.Context, spec backend.Spec) (backend.Volume, error) {
	p, err := b.newPlan(spec)
	if err != nil {
		return backend.Volume{}, err
	}
	unlock, err := b.nameLocks.lock(ctx, "volume "+p.coded)
	if err != nil {
		return backend.Volume{}, err
	}
	defer unlock()
	for range maxTokens {
		v, found, err := b.find(ctx, p.coded)
		if err != nil {
			return backend.Volume{}, err
		}
		if !found {
			if p.zone == "" {
				if err := b.complete(ctx, p); err != nil {
					return backend.Volume{}, err
				}
			}
			if v, err = b.makeVolume(ctx, p); errors.Is(err, errBurnt) {
				continue
			}
			if err != nil {
				return backend.Volume{}, err
			}
		}
		if err := matches(v, p); err != nil {
			return backend.Volume{}, err
		}
		if v, err = b.created(ctx, p, v); errors.Is(err, errBurnt) {
			continue
		}
		if err != nil {
			return backend.Volume{}, err
		}
		return b.toVolume(v)
	}
	return backend.Volume{}, fmt.Errorf("%w: EC2 remembers too many volumes of this name", backend.ErrUnavailable)
}

// newPlan checks what can be checked without EC2.
func (b *Backend) newPlan(spec backend.Spec) (*plan, error) {
	if err := checkName(spec.Name); err != nil {
		return nil, err
	}
	if s := spec.Source; s != nil && (s.Volume == "") == (s.Snapshot == "") {
		return nil, fmt.Errorf("%w: a source is a volume or a snapshot", backend.ErrInvalid)
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
		return fmt.Errorf("%w: a name has 1 to %d bytes of UTF-8", backend.ErrInvalid, maxName)
	}
	return nil
}

// sizeFor is the size in GiB for a range of bytes, standard if no least one is given.
func sizeFor(required, limit, standard int64) (int32, error) {
	if required < 0 || limit < 0 || limit > 0 && required > limit {
		return 0, fmt.Errorf("%w: sizes", backend.ErrInvalid)
	}
	if required > math.MaxInt32*int64(gib) {
		return 0, fmt.Errorf("%w: larger than any volume of EBS", backend.ErrOutOfRange)
	}
	n := (required + gib - 1) / gib
	if n == 0 {
		n = standard
		if limit > 0 {
			n = min(n, limit/gib)
		}
	}
	if n == 0 || limit > 0 && n*gib > limit {
		return 0, fmt.Errorf("%w: EBS has whole GiB, of which none lies between %d and %d bytes", backend.ErrOutOfRange, required, limit)
	}
	return int32(n), nil
}

// find looks for the volume of a name; if there are several, which only happens when somebody copies tags, for none of them.
func (b *Backend) find(ctx context.Context, coded string) (v types.Volume, found bool, err error) {
	all, _, err := b.named.get(ctx, coded)
	if err != nil {
		return v, false, err
	}
	all = slices.DeleteFunc(slices.Clone(all), func(v types.Volume) bool {
		_, gone := b.gone.get(aws.ToString(v.VolumeId))
		return gone || v.State == types.VolumeStateDeleting || v.State == types.VolumeStateDeleted
	})
	if len(all) > 1 {
		return v, false, fmt.Errorf("%w: two volumes have this name's tag, %s and %s", backend.ErrDamaged, aws.ToString(all[0].VolumeId), aws.ToString(all[1].VolumeId))
	}
	if len(all) == 0 {
		return v, false, nil
	}
	return all[0], true, nil
}

// matches tells whether a volume is what is asked for. ErrExists.
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

// complete finds out what needs EC2: source, zone, tags.
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
	tags, err := b.tagsFor(p.spec.Name, p.origin, p.spec.Parameters)
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

// source checks the source, and returns its size.
func (b *Backend) source(ctx context.Context, p *plan, zone *string) (gib32 int32, err error) {
	if id := p.spec.Source.Snapshot; id != "" {
		s, err := b.GetSnapshot(ctx, id)
		if err != nil {
			return 0, err
		}
		if s.State != backend.SnapshotReady {
			return 0, fmt.Errorf("%w: the source snapshot is not ready", backend.ErrBusy)
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

// zoneFor chooses the zone: the first that is preferred, else the first that is possible. A copy of a volume can only be in its zone.
func (b *Backend) zoneFor(ctx context.Context, spec backend.Spec, only string) (string, error) {
	zones, err := b.zones(ctx)
	if err != nil {
		return "", err
	}
	usable := func(z string) bool { return slices.Contains(zones, z) && (only == "" || z == only) }
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
		return "", fmt.Errorf("%w: no zone of this region is among those asked for", backend.ErrTopology)
	}
	if only != "" {
		return only, nil
	}
	if b.opt.Zone != "" {
		return b.opt.Zone, nil
	}
	if len(zones) == 0 {
		return "", fmt.Errorf("%w: the region has no zones", backend.ErrTopology)
	}
	h := fnv.New32a() // the same zone at each repetition: else the client token does not match
	_, _ = h.Write([]byte(spec.Name))
	return zones[h.Sum32()%uint32(len(zones))], nil
}

func inRequisite(zone string, requisite []backend.Segments) bool {
	return len(requisite) == 0 || slices.ContainsFunc(requisite, func(s backend.Segments) bool {
		z, err := zoneOf(s)
		return err == nil && z == zone
	})
}

// zones are those of the region, sorted. They change about once in a few years.
func (b *Backend) zones(ctx context.Context) ([]string, error) {
	out, err := b.ec2.DescribeAvailabilityZones(ctx, &ec2.DescribeAvailabilityZonesInput{Filters: []types.Filter{filter("state", "available")}})
	if err != nil {
		return nil, translate("DescribeAvailabilityZones", err)
	}
	var zones []string
	for _, z := range out.AvailabilityZones {
		zones = append(zones, aws.ToString(z.ZoneName))
	}
	slices.Sort(zones)
	return zones, nil
}

// token is the name's n-th client token.
func token(name string, n int) *string {
	if n > 1 {
		name += "-" + strconv.Itoa(n)
	}
	h := sha256.Sum256([]byte(name))
	return aws.String(hex.EncodeToString(h[:]))
}

// makeVolume asks EC2 for the volume. errBurnt: try again with the next token.
func (b *Backend) makeVolume(ctx context.Context, p *plan) (types.Volume, error) {
	n, _ := b.tokens.get(p.coded)
	n = max(n, 1)
	p.started = time.Now()
	v, meta, err := b.askForVolume(ctx, p, n)
	switch {
	case isCode(err, codeTokenMismatch):
		// The token was used for something else: for this name, in another zone or size, which we may not see yet.
		if v, found, ferr := b.patientFind(ctx, p.coded); found || ferr != nil {
			return v, ferr
		}
		b.tokens.set(p.coded, n+1)
		return v, errBurnt
	case isCode(err, codeVolumeLimit):
		if v, found, ferr := b.patientFind(ctx, p.coded); found || ferr != nil {
			return v, ferr
		}
		return v, err
	case err != nil:
		return v, err
	}
	if t, ok := awsmiddleware.GetServerTime(meta); ok { // by EC2's clock, not ours
		p.started = time.Now().Add(-t.Sub(aws.ToTime(v.CreateTime)))
	}
	v.Tags = types.TagSpecification{Tags: tagSpec("", p.tags)[0].Tags}.Tags
	return v, nil
}

func (b *Backend) askForVolume(ctx context.Context, p *plan, n int) (types.Volume, middleware.Metadata, error) {
	for again := false; ; again = true {
		iops, err := b.iopsFor(ctx, p)
		if err != nil {
			return types.Volume{}, middleware.Metadata{}, err
		}
		v, meta, err := b.askOnce(ctx, p, n, iops)
		if which, least, ok := limitOf(err); ok && which == "minimum" && errors.Is(err, backend.ErrOutOfRange) && !again && b.mayGrow(p, least) {
			p.gib = int32(least) // the type has no smaller volumes
			continue
		}
		return v, meta, err
	}
}

func (b *Backend) mayGrow(p *plan, least int64) bool {
	return least > int64(p.gib) && least < math.MaxInt32 && (p.spec.LimitBytes == 0 || least*gib <= p.spec.LimitBytes)
}

func optional(n int32) *int32 {
	if n == 0 {
		return nil
	}
	return &n
}

func (b *Backend) askOnce(ctx context.Context, p *plan, n int, iops int32) (types.Volume, middleware.Metadata, error) {
	kind := p.class.kind
	if s := p.spec.Source; s != nil && s.Volume != "" {
		out, err := b.ec2.CopyVolumes(ctx, &ec2.CopyVolumesInput{SourceVolumeId: aws.String(s.Volume), Size: aws.Int32(p.gib), VolumeType: kind, Iops: optional(iops), Throughput: optional(p.class.throughput),
			Encrypted: p.class.encrypted, KmsKeyId: nonEmpty(p.class.kmsKey), ClientToken: token(p.spec.Name, n), TagSpecifications: tagSpec(types.ResourceTypeVolume, p.tags)})
		if err != nil {
			return types.Volume{}, middleware.Metadata{}, translate("CopyVolumes", err)
		}
		if len(out.Volumes) != 1 {
			return types.Volume{}, out.ResultMetadata, fmt.Errorf("%w: EC2 made %d copies", backend.ErrUnavailable, len(out.Volumes))
		}
		return out.Volumes[0], out.ResultMetadata, nil
	}
	if kind == "" {
		kind = defaultType
	}
	in := &ec2.CreateVolumeInput{AvailabilityZone: aws.String(p.zone), Size: aws.Int32(p.gib), VolumeType: kind, Iops: optional(iops), Throughput: optional(p.class.throughput),
		Encrypted: p.class.encrypted, KmsKeyId: nonEmpty(p.class.kmsKey), ClientToken: token(p.spec.Name, n), TagSpecifications: tagSpec(types.ResourceTypeVolume, p.tags)}
	if p.spec.Source != nil {
		in.SnapshotId = aws.String(p.spec.Source.Snapshot)
	}
	out, err := b.ec2.CreateVolume(ctx, in)
	if err != nil {
		return types.Volume{}, middleware.Metadata{}, translate("CreateVolume", err)
	}
	return types.Volume{VolumeId: out.VolumeId, Size: out.Size, State: out.State, AvailabilityZone: out.AvailabilityZone, CreateTime: out.CreateTime}, out.ResultMetadata, nil
}

func nonEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// patientFind looks for a name until describes must have caught up.
func (b *Backend) patientFind(ctx context.Context, coded string) (v types.Volume, found bool, err error) {
	end := time.Now().Add(b.opt.Timing.Settle)
	err = b.poll(ctx, 0, func() error {
		last := time.Now().After(end) // before the look: an answer may be older than it seems
		if v, found, err = b.find(ctx, coded); err != nil || found {
			return err
		}
		if last {
			return nil
		}
		return errNotYet
	})
	return v, found, err
}

// created waits until a volume can be used. errBurnt if there is none: EC2 gave the id of one that is gone.
func (b *Backend) created(ctx context.Context, p *plan, v types.Volume) (types.Volume, error) {
	if v.State == types.VolumeStateAvailable || v.State == types.VolumeStateInUse {
		if _, gone := b.gone.get(aws.ToString(v.VolumeId)); !gone && p.started.IsZero() {
			return v, nil // found, not made
		}
	}
	id, seen, first := aws.ToString(v.VolumeId), p.started.IsZero(), b.opt.Timing.CreateFirst
	err := b.poll(ctx, first, func() error {
		settled := time.Since(p.started) >= b.opt.Timing.Settle // before the look: an answer may be older than it seems
		now, ok, err := b.volumes.get(ctx, id)
		if err != nil {
			return err
		}
		if _, gone := b.gone.get(id); gone {
			ok, now.State = false, ""
			if !seen {
				return errBurnt
			}
		}
		switch {
		case ok && (now.State == types.VolumeStateAvailable || now.State == types.VolumeStateInUse):
			if tagMap(now.Tags)[tagCluster] == "" && !settled {
				return errNotYet // its tags are on their way
			}
			v = now
			return nil
		case ok && now.State == types.VolumeStateCreating:
			seen = true
			return errNotYet
		case ok && now.State == types.VolumeStateError:
			seen = true
			if _, err := b.ec2.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: aws.String(id)}); err != nil && !isCode(translate("DeleteVolume", err), codeVolumeGone) {
				return translate("DeleteVolume", err)
			}
		case !ok && !seen && !settled:
			return errNotYet // describes may not show it yet
		}
		return errBurnt
	})
	if !errors.Is(err, errBurnt) {
		return v, err
	}
	n, _ := b.tokens.get(p.coded)
	b.tokens.set(p.coded, max(n, 1)+1)
	b.gone.set(id, true)
	if seen {
		return v, fmt.Errorf("%w: EC2 took the request for %s and the volume then failed; a KMS key that does not exist or must not be used does that", backend.ErrInvalid, id)
	}
	return v, errBurnt
}

// Delete implements backend.Controller. It returns when the volume is on its way out.
func (b *Backend) Delete(ctx context.Context, id string) error {
	if !volumeID.MatchString(id) {
		return ctx.Err()
	}
	unlock, err := b.volLocks.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	v, err := b.volume(ctx, id)
	switch {
	case errors.Is(err, errForeign):
		return fmt.Errorf("%w: volume %s %w; it is not deleted", backend.ErrInvalid, id, errForeign)
	case errors.Is(err, backend.ErrNotFound):
		return nil
	case err != nil:
		return err
	case attachmentOf(v) != nil:
		return fmt.Errorf("%w: attached to %s", backend.ErrBusy, aws.ToString(attachmentOf(v).InstanceId))
	}
	_, err = b.ec2.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: aws.String(id)})
	if err = translate("DeleteVolume", err); err != nil && !isCode(err, codeVolumeGone) {
		return err
	}
	b.gone.set(id, true)
	return nil
}
