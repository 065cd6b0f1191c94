package ebs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/sealvol/sealvol/pkg/backend"
)

// CreateSnapshot implements backend.Snapshotter. EC2 snapshots contain all acknowledged writes, so
// the volume need not be frozen.
func (b *Backend) CreateSnapshot(ctx context.Context, spec backend.SnapshotSpec) (backend.Snapshot, error) {
	if err := checkName(spec.Name); err != nil {
		return backend.Snapshot{}, err
	}
	coded := encodeValue(spec.Name)
	unlock, err := b.nameLocks.lock(ctx, "snapshot "+coded)
	if err != nil {
		return backend.Snapshot{}, err
	}
	defer unlock()
	s, found, err := b.findSnapshot(ctx, coded)
	if err != nil {
		return backend.Snapshot{}, err
	}
	if !found {
		if s, err = b.makeSnapshot(ctx, spec, coded); err != nil {
			return backend.Snapshot{}, err
		}
	}
	if aws.ToString(s.VolumeId) != spec.Volume {
		return backend.Snapshot{}, fmt.Errorf("%w: it is a snapshot of another volume", backend.ErrExists)
	}
	return toSnapshot(s)
}

// findSnapshot returns the oldest snapshot of a name, which counts, and deletes younger ones, which
// no caller knows.
func (b *Backend) findSnapshot(ctx context.Context, coded string) (s types.Snapshot, found bool, err error) {
	all, _, err := b.snapNamed.get(ctx, coded)
	if err != nil || len(all) == 0 {
		return s, false, err
	}
	all = slices.Clone(all)
	slices.SortFunc(all, func(x, y types.Snapshot) int {
		return cmp.Or(aws.ToTime(x.StartTime).Compare(aws.ToTime(y.StartTime)), cmp.Compare(aws.ToString(x.SnapshotId), aws.ToString(y.SnapshotId)))
	})
	for _, young := range all[1:] {
		if aws.ToString(young.VolumeId) == aws.ToString(all[0].VolumeId) {
			if err := b.deleteSnapshot(ctx, aws.ToString(young.SnapshotId)); err != nil {
				return s, false, err
			}
		}
	}
	return all[0], true, nil
}

// makeSnapshot creates a snapshot, and returns the one that describes then show for that name.
func (b *Backend) makeSnapshot(ctx context.Context, spec backend.SnapshotSpec, coded string) (s types.Snapshot, err error) {
	v, err := b.volume(ctx, spec.Volume)
	if err != nil {
		return s, err
	}
	tags := tagMap(v.Tags)
	params, err := paramsOf(tags)
	if err != nil {
		return s, err
	}
	origin := cmp.Or(tags[tagOrigin], spec.Volume)
	if tags, err = b.tagsFor(spec.Name, origin, params, nil, spec.For); err != nil {
		return s, err
	}
	out, err := b.ec2.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{VolumeId: aws.String(spec.Volume), Description: aws.String("made by csi.sealvol.dev"),
		TagSpecifications: tagSpec(types.ResourceTypeSnapshot, tags)}, once)
	err = translate("CreateSnapshot", err)
	if err != nil && !errors.Is(err, backend.ErrUnavailable) {
		return s, err
	}
	made := ""
	if err == nil {
		made = aws.ToString(out.SnapshotId)
	}
	return b.seenSnapshot(ctx, coded, made, err)
}

// seenSnapshot waits until describes show the snapshot of a name. made is the id that was just
// created, or "" if the answer was the error cause; EC2 may have created a snapshot anyway. If an
// older snapshot appears, whose answer was lost, that one counts.
func (b *Backend) seenSnapshot(ctx context.Context, coded, made string, cause error) (s types.Snapshot, err error) {
	end := time.Now().Add(b.opt.Timing.Settle)
	err = b.poll(ctx, 0, func() error {
		var found bool
		var err error
		settled := time.Now().After(end) // take the time before the call, because an answer may be older than it seems
		if s, found, err = b.findSnapshot(ctx, coded); err != nil {
			return err
		}
		switch {
		case made == "" && !settled:
			return errNotYet // wait until all snapshots are visible, so that younger ones can be deleted
		case !found && made == "":
			return cause
		case !found:
			return errNotYet
		case made != "" && aws.ToString(s.SnapshotId) != made:
			return b.deleteSnapshot(ctx, made)
		}
		return nil
	})
	return s, err
}

// whyFailed explains a snapshot in state error.
func whyFailed(message string) string {
	if message == "" {
		return "EC2 gives no reason"
	}
	if strings.Contains(strings.ToLower(message), "key") {
		return message + "; " + keyHint("")
	}
	return message
}

// toSnapshot converts a snapshot. For a snapshot with invalid tags, it returns an error together
// with what can be read.
func toSnapshot(s types.Snapshot) (backend.Snapshot, error) {
	tags := tagMap(s.Tags)
	name, nameErr := decodeValue(tags[tagName])
	params, paramErr := paramsOf(tags)
	x := backend.Snapshot{ID: aws.ToString(s.SnapshotId), Name: name, Volume: aws.ToString(s.VolumeId), SizeBytes: int64(aws.ToInt32(s.VolumeSize)) * gib, Created: aws.ToTime(s.StartTime),
		State: backend.SnapshotPending, Message: aws.ToString(s.StateMessage), Parameters: params, Origin: tags[tagOrigin]}
	switch s.State {
	case types.SnapshotStateCompleted:
		x.State = backend.SnapshotReady
	case types.SnapshotStateError:
		x.State, x.Message = backend.SnapshotFailed, whyFailed(x.Message)
	}
	return x, errors.Join(nameErr, paramErr)
}

// ourSnapshot returns a snapshot of this cluster, or ErrSnapshotNotFound.
func (b *Backend) ourSnapshot(ctx context.Context, id string) (types.Snapshot, error) {
	if !snapshotID.MatchString(id) {
		return types.Snapshot{}, fmt.Errorf("%w: not an EBS snapshot id", backend.ErrSnapshotNotFound)
	}
	s, ok, err := b.snapshots.get(ctx, id)
	switch {
	case err != nil:
		return s, err
	case !ok:
		return s, fmt.Errorf("%w: %s", backend.ErrSnapshotNotFound, id)
	case tagMap(s.Tags)[tagCluster] != b.opt.Cluster:
		return s, fmt.Errorf("%w: %s %w", backend.ErrSnapshotNotFound, id, errForeign)
	}
	return s, nil
}

// GetSnapshot implements backend.Snapshotter.
func (b *Backend) GetSnapshot(ctx context.Context, id string) (backend.Snapshot, error) {
	s, err := b.ourSnapshot(ctx, id)
	if err != nil {
		return backend.Snapshot{}, err
	}
	return toSnapshot(s)
}

// DeleteSnapshot implements backend.Snapshotter.
func (b *Backend) DeleteSnapshot(ctx context.Context, id string) error {
	_, err := b.ourSnapshot(ctx, id)
	switch {
	case errors.Is(err, errForeign):
		return fmt.Errorf("%w: snapshot %s %w, so it was not deleted", backend.ErrInvalid, id, errForeign)
	case errors.Is(err, backend.ErrSnapshotNotFound) && !snapshotID.MatchString(id):
		return nil
	case err != nil && !errors.Is(err, backend.ErrSnapshotNotFound): // try anyway: describes may be outdated
		return err
	}
	return b.deleteSnapshot(ctx, id)
}

func (b *Backend) deleteSnapshot(ctx context.Context, id string) error {
	_, err := b.ec2.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: aws.String(id)})
	if err = translate("DeleteSnapshot", err); isCode(err, codeNoSnapshot) {
		return nil
	}
	return err
}
