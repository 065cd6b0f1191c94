package ebs

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

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
	// maxTokens is how many burnt tokens one call skips.
	maxTokens = 8
	// maxLimits is how many limits of a volume type one call learns from refusals.
	maxLimits = 4
)

// errBurnt: the client token belongs to a deleted volume.
var errBurnt = errors.New("the client token belongs to a deleted volume")

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
	return backend.Volume{}, fmt.Errorf("%w: too many deleted volumes of this name exist; EC2 forgets them within 12 hours", backend.ErrUnavailable)
}

// find looks for the volume of a name. If there are several, which only happens when somebody
// copies tags, it returns an error.
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
		return v, false, fmt.Errorf("%w: two volumes have the tag of this name, %s and %s; remove the tag from the wrong one", backend.ErrDamaged, aws.ToString(all[0].VolumeId), aws.ToString(all[1].VolumeId))
	}
	if len(all) == 0 {
		return v, false, nil
	}
	return all[0], true, nil
}

// token returns the n-th client token of a name.
func token(name string, n int) *string {
	if n > 1 {
		name += "-" + strconv.Itoa(n)
	}
	h := sha256.Sum256([]byte(name))
	return aws.String(hex.EncodeToString(h[:]))
}

// makeVolume asks EC2 for the volume. errBurnt: retry with the next token.
func (b *Backend) makeVolume(ctx context.Context, p *plan) (types.Volume, error) {
	n, _ := b.tokens.get(p.coded)
	n = max(n, 1)
	p.started, p.fresh = time.Now(), false
	v, meta, err := b.askForVolume(ctx, p, n)
	switch {
	case isDeletedToken(err): // EC2 itself knows that the volume is deleted
		b.tokens.set(p.coded, n+1)
		return v, errBurnt
	case isCode(err, codeTokenMismatch):
		// The token was used for another request: for this name with another zone or size.
		// Describes may not show that volume yet.
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
	if t, ok := awsmiddleware.GetServerTime(meta); ok { // by EC2's clock
		age := t.Sub(aws.ToTime(v.CreateTime))
		p.fresh = age <= time.Since(p.started)+clockTick
		p.started = time.Now().Add(-age)
	}
	v.Tags = types.TagSpecification{Tags: tagSpec("", p.tags)[0].Tags}.Tags
	return v, nil
}

// clockTick is the resolution of EC2's times.
const clockTick = time.Second

// isDeletedToken tells whether EC2 refuses a client token because its volume is deleted.
func isDeletedToken(err error) bool {
	return isCode(err, codeTokenMismatch) && strings.Contains(err.Error(), "already deleted")
}

func (b *Backend) askForVolume(ctx context.Context, p *plan, n int) (types.Volume, middleware.Metadata, error) {
	for again := 0; ; again++ {
		iops, err := b.iopsFor(ctx, p)
		if err != nil {
			return types.Volume{}, middleware.Metadata{}, err
		}
		v, meta, err := b.askOnce(ctx, p, n, iops)
		switch which, least, _ := limitOf(err); {
		case again >= maxLimits:
		case which == limitMinSize && b.mayGrow(p, least):
			p.gib = int32(least) // the type has no smaller volumes
			continue
		case p.class.iopsPerGB > 0 && b.learn(cmp.Or(p.class.kind, defaultType), err):
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
	kind := cmp.Or(p.class.kind, defaultType) // EC2's own default is gp2, also for copies
	if s := p.spec.Source; s != nil && s.Volume != "" {
		out, err := b.ec2.CopyVolumes(ctx, &ec2.CopyVolumesInput{SourceVolumeId: aws.String(s.Volume), Size: aws.Int32(p.gib), VolumeType: kind, Iops: optional(iops), Throughput: optional(p.class.throughput),
			Encrypted: p.class.encrypted, KmsKeyId: nonEmpty(p.class.kmsKey), ClientToken: token(p.spec.Name, n), TagSpecifications: tagSpec(types.ResourceTypeVolume, p.tags)})
		if err != nil {
			return types.Volume{}, middleware.Metadata{}, translate("CopyVolumes", err)
		}
		if len(out.Volumes) != 1 {
			return types.Volume{}, out.ResultMetadata, fmt.Errorf("%w: EC2 returned %d copies, want 1", backend.ErrUnavailable, len(out.Volumes))
		}
		return out.Volumes[0], out.ResultMetadata, nil
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

// patientFind looks for a name until describes must be up to date.
func (b *Backend) patientFind(ctx context.Context, coded string) (v types.Volume, found bool, err error) {
	end := time.Now().Add(b.opt.Timing.Settle)
	err = b.poll(ctx, 0, func() error {
		last := time.Now().After(end) // take the time before the call, because an answer may be older than it seems
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

// created waits until a volume can be used. errBurnt: EC2 returned the id of a deleted volume.
func (b *Backend) created(ctx context.Context, p *plan, v types.Volume) (types.Volume, error) {
	if v.State == types.VolumeStateAvailable || v.State == types.VolumeStateInUse {
		if _, gone := b.gone.get(aws.ToString(v.VolumeId)); !gone && p.started.IsZero() {
			return v, nil // found, not created now
		}
	}
	id, seen, since := aws.ToString(v.VolumeId), p.started.IsZero(), p.started
	err := b.poll(ctx, b.opt.Timing.CreateFirst, func() error {
		asked := time.Now() // take the time before the call, because an answer may be older than it seems
		now, ok, err := b.volumes.get(ctx, id)
		if err != nil {
			return err
		}
		if _, gone := b.gone.get(id); gone {
			return errBurnt
		}
		if ok {
			since = asked
		}
		settled := asked.Sub(since) >= b.opt.Timing.Settle
		switch {
		case ok && (now.State == types.VolumeStateAvailable || now.State == types.VolumeStateInUse):
			if tagMap(now.Tags)[tagCluster] == "" && asked.Sub(p.started) < b.opt.Timing.Settle {
				return errNotYet // its tags are not visible yet
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
		case !ok && !settled:
			return errNotYet // one describe may be older than another: a volume that stays invisible for some time is gone
		case !ok:
			seen = seen || p.fresh // EC2 has just created it, so nobody can have deleted it
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
		return v, fmt.Errorf("%w: EC2 accepted the request, but the volume %s then failed; %s", backend.ErrInvalid, id, keyHint(p.class.kmsKey))
	}
	return v, errBurnt
}

// Delete implements backend.Controller. It returns when the volume is being deleted.
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
		return fmt.Errorf("%w: volume %s %w, so it was not deleted", backend.ErrInvalid, id, errForeign)
	case errors.Is(err, backend.ErrNotFound): // try anyway: describes may be outdated
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
