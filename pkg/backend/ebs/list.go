package ebs

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/sealvol/sealvol/pkg/backend"
)

// EC2's pages have 5 to 1000 members.
const (
	leastPage = 5
	mostPage  = 500
)

// cursor is a page token: EC2's own token, and which members of its page were already returned.
type cursor struct {
	EC2  string   `json:"t,omitempty"`
	Page int32    `json:"n"`
	Done []string `json:"d,omitempty"` // fewer than leastPage, because larger pages are returned completely
}

func (c cursor) String() (string, error) {
	raw, err := json.Marshal(c)
	return base64.RawURLEncoding.EncodeToString(raw), err
}

// parseCursor decodes a token; "" is the start.
func parseCursor(token string, most int) (cursor, error) {
	if most < 0 {
		return cursor{}, fmt.Errorf("%w: max_entries is negative", backend.ErrInvalid)
	}
	c := cursor{Page: mostPage}
	if most > 0 {
		c.Page = int32(min(max(most, leastPage), mostPage))
	}
	if token == "" {
		return c, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || json.Unmarshal(raw, &c) != nil || c.Page < leastPage || c.Page > mostPage || len(c.Done) > leastPage {
		return cursor{}, fmt.Errorf("%w: the token has another form", backend.ErrBadToken)
	}
	return c, nil
}

// pages goes through EC2's pages until most members are found (0: all), and returns the token for
// the rest.
func pages[T any](c cursor, most int, id func(T) string, fetch func(token *string, page int32) ([]T, *string, error)) (all []T, next string, err error) {
	for {
		got, token, err := fetch(nonEmpty(c.EC2), c.Page)
		if err != nil {
			return nil, "", err
		}
		got = slices.DeleteFunc(got, func(v T) bool { return slices.Contains(c.Done, id(v)) })
		if most > 0 && len(all)+len(got) > most {
			for _, v := range got[:most-len(all)] {
				all = append(all, v)
				c.Done = append(c.Done, id(v))
			}
			next, err = c.String()
			return all, next, err
		}
		all = append(all, got...)
		c.Done = nil
		if c.EC2 = aws.ToString(token); c.EC2 == "" {
			return all, "", nil
		}
		if most > 0 && len(all) == most {
			next, err = c.String()
			return all, next, err
		}
	}
}

// List implements backend.Controller. The order is that of EC2.
func (b *Backend) List(ctx context.Context, token string, most int) ([]backend.Volume, string, error) {
	c, err := parseCursor(token, most)
	if err != nil {
		return nil, "", err
	}
	all, next, err := pages(c, most, func(v types.Volume) string { return aws.ToString(v.VolumeId) }, func(token *string, page int32) ([]types.Volume, *string, error) {
		out, err := b.ec2.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{Filters: []types.Filter{filter("tag:"+tagCluster, b.opt.Cluster)}, NextToken: token, MaxResults: aws.Int32(page)})
		if err != nil {
			return nil, nil, translate("DescribeVolumes", err)
		}
		return out.Volumes, out.NextToken, nil
	})
	if err != nil {
		return nil, "", err
	}
	var list []backend.Volume
	for _, v := range all {
		if v.State == types.VolumeStateDeleting || v.State == types.VolumeStateDeleted || v.State == types.VolumeStateError {
			continue
		}
		if _, gone := b.gone.get(aws.ToString(v.VolumeId)); gone {
			continue
		}
		x, err := b.toVolume(v)
		if err != nil { // it is listed as far as it can be read, so that it does not break the list; Get returns the error
			b.opt.Log.WarnContext(ctx, "the tags of a volume are damaged, so it cannot be used until they are corrected", "volume", x.ID, "error", err)
		}
		list = append(list, x)
	}
	return list, next, nil
}

// ListSnapshots implements backend.Snapshotter.
func (b *Backend) ListSnapshots(ctx context.Context, volume, token string, most int) ([]backend.Snapshot, string, error) {
	c, err := parseCursor(token, most)
	if err != nil {
		return nil, "", err
	}
	filters := []types.Filter{filter("tag:"+tagCluster, b.opt.Cluster)}
	if volume != "" {
		if !volumeID.MatchString(volume) {
			return nil, "", nil
		}
		filters = append(filters, filter("volume-id", volume))
	}
	all, next, err := pages(c, most, func(s types.Snapshot) string { return aws.ToString(s.SnapshotId) }, func(token *string, page int32) ([]types.Snapshot, *string, error) {
		out, err := b.ec2.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{Filters: filters, OwnerIds: []string{"self"}, NextToken: token, MaxResults: aws.Int32(page)})
		if err != nil {
			return nil, nil, translate("DescribeSnapshots", err)
		}
		return out.Snapshots, out.NextToken, nil
	})
	if err != nil {
		return nil, "", err
	}
	var list []backend.Snapshot
	for _, s := range all {
		x, err := toSnapshot(s)
		if err != nil { // like volumes
			b.opt.Log.WarnContext(ctx, "the tags of a snapshot are damaged, so it cannot be used until they are corrected", "snapshot", x.ID, "error", err)
		}
		list = append(list, x)
	}
	return list, next, nil
}

// Get implements backend.Controller.
func (b *Backend) Get(ctx context.Context, id string) (backend.Volume, error) {
	v, err := b.volume(ctx, id)
	if err != nil {
		return backend.Volume{}, err
	}
	if _, gone := b.gone.get(id); gone {
		return backend.Volume{}, fmt.Errorf("%w: %s", backend.ErrNotFound, id)
	}
	return b.toVolume(v)
}

// Health implements backend.Controller.
func (b *Backend) Health(ctx context.Context, id string) ([]backend.Condition, error) {
	v, err := b.volume(ctx, id)
	if err != nil {
		return nil, err
	}
	if v.State == types.VolumeStateError {
		return []backend.Condition{{Lost: true, Reason: "VolumeError", Message: "EC2 reports that the volume has failed (state error); its data is probably lost"}}, nil
	}
	out, err := b.ec2.DescribeVolumeStatus(ctx, &ec2.DescribeVolumeStatusInput{Filters: []types.Filter{filter("volume-id", id)}})
	if err != nil {
		return nil, translate("DescribeVolumeStatus", err)
	}
	var conds []backend.Condition
	for _, s := range out.VolumeStatuses {
		if s.VolumeStatus != nil && s.VolumeStatus.Status == types.VolumeStatusInfoStatusImpaired {
			conds = append(conds, backend.Condition{Inaccessible: true, Reason: "VolumeImpaired", Message: "EC2 reports the volume as impaired: its data may be inconsistent, and EC2 may have stopped its I/O. Check the volume's status in EC2"})
		}
		for _, e := range s.Events {
			conds = append(conds, backend.Condition{Reason: "VolumeEvent", Message: aws.ToString(e.Description)})
		}
	}
	return conds, nil
}
