package ebs

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/sealvol/sealvol/pkg/backend"
)

// The limits of one EC2 call without pages.
const (
	mostIDs     = 500
	mostFilters = 190 // a call may have 200 values in all filters; one of them names the cluster
)

func (b *Backend) makeBatchers() {
	w := b.opt.Timing.Batch
	b.volumes = &batcher[types.Volume]{window: w, most: mostIDs, fetch: b.fetchVolumes, run: &b.run, ctx: b.ctx}
	b.named = &batcher[[]types.Volume]{window: w, most: mostFilters, fetch: b.fetchNamed, run: &b.run, ctx: b.ctx}
	b.instances = &batcher[types.Instance]{window: w, most: mostIDs, fetch: b.fetchInstances, run: &b.run, ctx: b.ctx}
	b.snapshots = &batcher[types.Snapshot]{window: w, most: mostFilters, fetch: b.fetchSnapshots, run: &b.run, ctx: b.ctx}
	b.snapNamed = &batcher[[]types.Snapshot]{window: w, most: mostFilters, fetch: b.fetchSnapNamed, run: &b.run, ctx: b.ctx}
	b.modified = &batcher[types.VolumeModification]{window: w, most: mostFilters, fetch: b.fetchModified, run: &b.run, ctx: b.ctx}
}

func filter(name string, values ...string) types.Filter {
	return types.Filter{Name: aws.String(name), Values: values}
}

// eachVolume goes through all pages.
func (b *Backend) eachVolume(ctx context.Context, in *ec2.DescribeVolumesInput, each func(types.Volume)) error {
	for {
		out, err := b.ec2.DescribeVolumes(ctx, in)
		if err != nil {
			return translate("DescribeVolumes", err)
		}
		for _, v := range out.Volumes {
			each(v)
		}
		if aws.ToString(out.NextToken) == "" {
			return nil
		}
		in.NextToken = out.NextToken
	}
}

// fetchVolumes describes volumes by id. An unknown id makes the whole call fail, so ids that were
// unknown before are sent as a filter, which only finds nothing.
func (b *Backend) fetchVolumes(ctx context.Context, ids []string) (map[string]types.Volume, error) {
	got := make(map[string]types.Volume, len(ids))
	take := func(v types.Volume) { got[aws.ToString(v.VolumeId)] = v }
	var good, bad []string
	for _, id := range ids {
		if _, ok := b.suspects.get(id); ok {
			bad = append(bad, id)
		} else {
			good = append(good, id)
		}
	}
	unknown, err := withoutUnknown(good, codeVolumeGone, func(ids []string) error {
		return b.eachVolume(ctx, &ec2.DescribeVolumesInput{VolumeIds: ids}, take)
	})
	if err != nil {
		return nil, err
	}
	for _, id := range unknown {
		b.suspects.set(id, true)
	}
	for part := range slices.Chunk(bad, mostFilters) {
		if err := b.eachVolume(ctx, &ec2.DescribeVolumesInput{Filters: []types.Filter{filter("volume-id", part...)}}, take); err != nil {
			return nil, err
		}
	}
	for _, id := range bad {
		if _, ok := got[id]; ok {
			b.suspects.drop(id)
		}
	}
	return got, nil
}

var anyID = regexp.MustCompile(`\b(vol|i)-[0-9a-f]+\b`)

// isUnknown tells whether a describe failed because EC2 does not know one of the ids, or considers
// it malformed. The other callers in the same batch must not fail because of it.
func isUnknown(err error, code string, ids []string) bool {
	if isCode(err, code, codeBadVolume, codeBadInstance) {
		return true
	}
	var e *ec2Error
	return isCode(err, codeBadValue) && errors.As(err, &e) &&
		slices.ContainsFunc(anyID.FindAllString(e.message, -1), func(id string) bool { return slices.Contains(ids, id) })
}

// withoutUnknown calls describe with ids, and then without those that EC2's error names. If the
// error names none, it calls describe with each half.
func withoutUnknown(ids []string, code string, describe func(ids []string) error) (unknown []string, err error) {
	for len(ids) > 0 {
		err := describe(ids)
		if err == nil {
			return unknown, nil
		}
		if !isUnknown(err, code, ids) {
			return nil, err
		}
		if len(ids) == 1 {
			return append(unknown, ids[0]), nil
		}
		var e *ec2Error
		errors.As(err, &e)
		named := anyID.FindAllString(e.message, -1)
		rest := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return slices.Contains(named, id) })
		if len(rest) == len(ids) {
			left, err := withoutUnknown(ids[:len(ids)/2], code, describe)
			if err != nil {
				return nil, err
			}
			unknown, ids = append(unknown, left...), ids[len(ids)/2:]
			continue
		}
		for _, id := range ids {
			if slices.Contains(named, id) {
				unknown = append(unknown, id)
			}
		}
		ids = rest
	}
	return unknown, nil
}

// fetchNamed describes volumes by the encoded names in their tags.
func (b *Backend) fetchNamed(ctx context.Context, names []string) (map[string][]types.Volume, error) {
	got := map[string][]types.Volume{}
	in := &ec2.DescribeVolumesInput{Filters: []types.Filter{filter("tag:"+tagCluster, b.opt.Cluster), filter("tag:"+tagName, names...)}}
	err := b.eachVolume(ctx, in, func(v types.Volume) {
		name := tagMap(v.Tags)[tagName]
		got[name] = append(got[name], v)
	})
	return got, err
}

func (b *Backend) fetchInstances(ctx context.Context, ids []string) (map[string]types.Instance, error) {
	got := make(map[string]types.Instance, len(ids))
	_, err := withoutUnknown(ids, codeNoInstance, func(ids []string) error {
		in := &ec2.DescribeInstancesInput{InstanceIds: ids}
		for {
			out, err := b.ec2.DescribeInstances(ctx, in)
			if err != nil {
				return translate("DescribeInstances", err)
			}
			for _, r := range out.Reservations {
				for _, i := range r.Instances {
					got[aws.ToString(i.InstanceId)] = i
				}
			}
			if aws.ToString(out.NextToken) == "" {
				return nil
			}
			in.NextToken = out.NextToken
		}
	})
	return got, err
}

func (b *Backend) eachSnapshot(ctx context.Context, filters []types.Filter, each func(types.Snapshot)) error {
	in := &ec2.DescribeSnapshotsInput{Filters: filters, OwnerIds: []string{"self"}}
	for {
		out, err := b.ec2.DescribeSnapshots(ctx, in)
		if err != nil {
			return translate("DescribeSnapshots", err)
		}
		for _, s := range out.Snapshots {
			each(s)
		}
		if aws.ToString(out.NextToken) == "" {
			return nil
		}
		in.NextToken = out.NextToken
	}
}

func (b *Backend) fetchSnapshots(ctx context.Context, ids []string) (map[string]types.Snapshot, error) {
	got := make(map[string]types.Snapshot, len(ids))
	err := b.eachSnapshot(ctx, []types.Filter{filter("snapshot-id", ids...)}, func(s types.Snapshot) { got[aws.ToString(s.SnapshotId)] = s })
	return got, err
}

func (b *Backend) fetchSnapNamed(ctx context.Context, names []string) (map[string][]types.Snapshot, error) {
	got := map[string][]types.Snapshot{}
	err := b.eachSnapshot(ctx, []types.Filter{filter("tag:"+tagCluster, b.opt.Cluster), filter("tag:"+tagName, names...)}, func(s types.Snapshot) {
		name := tagMap(s.Tags)[tagName]
		got[name] = append(got[name], s)
	})
	return got, err
}

func (b *Backend) fetchModified(ctx context.Context, ids []string) (map[string]types.VolumeModification, error) {
	got := make(map[string]types.VolumeModification, len(ids))
	in := &ec2.DescribeVolumesModificationsInput{Filters: []types.Filter{filter("volume-id", ids...)}}
	for {
		out, err := b.ec2.DescribeVolumesModifications(ctx, in)
		if err != nil {
			return nil, translate("DescribeVolumesModifications", err)
		}
		for _, m := range out.VolumesModifications {
			id := aws.ToString(m.VolumeId)
			if old, ok := got[id]; !ok || aws.ToTime(old.StartTime).Before(aws.ToTime(m.StartTime)) {
				got[id] = m
			}
		}
		if aws.ToString(out.NextToken) == "" {
			return got, nil
		}
		in.NextToken = out.NextToken
	}
}

// volume returns one of the cluster's volumes as EC2 shows it, or ErrNotFound.
func (b *Backend) volume(ctx context.Context, id string) (types.Volume, error) {
	if !volumeID.MatchString(id) {
		return types.Volume{}, fmt.Errorf("%w: not an EBS volume id", backend.ErrNotFound)
	}
	v, ok, err := b.volumes.get(ctx, id)
	switch {
	case err != nil:
		return types.Volume{}, err
	case !ok || v.State == types.VolumeStateDeleting || v.State == types.VolumeStateDeleted:
		return types.Volume{}, fmt.Errorf("%w: %s", backend.ErrNotFound, id)
	case tagMap(v.Tags)[tagCluster] != b.opt.Cluster:
		return types.Volume{}, fmt.Errorf("%w: %s %w", backend.ErrNotFound, id, errForeign)
	}
	return v, nil
}

// errForeign: it exists, but belongs to another cluster or to somebody else.
var errForeign = errors.New("does not have this cluster's tag " + tagCluster)

// instance returns an instance that can have volumes, or ErrNodeNotFound.
func (b *Backend) instance(ctx context.Context, id string) (types.Instance, error) {
	if !instanceID.MatchString(id) {
		return types.Instance{}, fmt.Errorf("%w: not an EC2 instance id", backend.ErrNodeNotFound)
	}
	i, ok, err := b.instances.get(ctx, id)
	if err != nil {
		return i, err
	}
	if state := instanceState(i); !ok || state == types.InstanceStateNameTerminated || state == types.InstanceStateNameShuttingDown {
		return i, fmt.Errorf("%w: %s", backend.ErrNodeNotFound, id)
	}
	return i, nil
}

func instanceState(i types.Instance) types.InstanceStateName {
	if i.State == nil {
		return ""
	}
	return i.State.Name
}

// attachmentOf returns where a volume is attached, attaching or detaching.
func attachmentOf(v types.Volume) *types.VolumeAttachment {
	for i := range v.Attachments {
		if v.Attachments[i].State != types.VolumeAttachmentStateDetached {
			return &v.Attachments[i]
		}
	}
	return nil
}

// toVolume converts a volume. For a volume with invalid tags, it returns an error together with the
// id, size, place and attachment.
func (b *Backend) toVolume(v types.Volume) (backend.Volume, error) {
	tags := tagMap(v.Tags)
	name, nameErr := decodeValue(tags[tagName])
	params, paramErr := paramsOf(tags)
	x := backend.Volume{ID: aws.ToString(v.VolumeId), Name: name, SizeBytes: int64(aws.ToInt32(v.Size)) * gib, Parameters: params, Origin: tags[tagOrigin],
		Topology: []backend.Segments{segmentsOf(aws.ToString(v.AvailabilityZone))}, Source: sourceOf(tags[tagSource])}
	if a := attachmentOf(v); a != nil {
		node := aws.ToString(a.InstanceId)
		x.Attachment = &backend.Attachment{Node: node, ReadOnly: tags[tagReadOnly] == node}
	}
	return x, errors.Join(nameErr, paramErr)
}

func sourceOf(id string) *backend.Source {
	switch {
	case volumeID.MatchString(id):
		return &backend.Source{Volume: id}
	case snapshotID.MatchString(id):
		return &backend.Source{Snapshot: id}
	}
	return nil
}

// Topology keys: that of Kubernetes, and the driver's own for clusters where another program sets
// that one.
const (
	zoneKey    = "topology.kubernetes.io/zone"
	zoneKeyOwn = "topology.csi.sealvol.dev/zone"
)

func segmentsOf(zone string) backend.Segments {
	return backend.Segments{zoneKey: zone, zoneKeyOwn: zone}
}

// zoneOf returns the zone of a place, or "" if it has none.
func zoneOf(s backend.Segments) (string, error) {
	a, b := s[zoneKey], s[zoneKeyOwn]
	if a != "" && b != "" && a != b {
		return "", fmt.Errorf("%w: the topology has two different zones", backend.ErrInvalid)
	}
	if b != "" {
		return b, nil
	}
	return a, nil
}
