package ebs

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/sealvol/sealvol/pkg/backend"
)

// Keys of what Attach tells the node.
const (
	attachedPath = "devicePath" // the name that EC2 knows the device by; udev may have made a link of it
	attachedSize = "sizeBytes"  // at least
	attachedRO   = "ebsReadOnly"
	attachedMade = "formatted" // "true": the volume has the tag; without it nothing is said
)

// maxNames is how many device names one call tries.
const maxNames = 4

// errTryName: another device name may do.
var errTryName = errors.New("another device name is needed")

// Attach implements backend.Controller.
func (b *Backend) Attach(ctx context.Context, id, node string, readOnly bool) (map[string]string, error) {
	unlock, err := b.volLocks.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	for range maxNames {
		v, err := b.freeFor(ctx, id, node)
		if err != nil {
			return nil, err
		}
		a := attachmentOf(v)
		if a != nil && (tagMap(v.Tags)[tagReadOnly] == node) != readOnly {
			return nil, fmt.Errorf("%w: %s", backend.ErrAttachedOtherwise, id)
		}
		device, release := "", func(bool) {}
		if a == nil {
			if device, release, err = b.beginAttach(ctx, v, node, readOnly); errors.Is(err, errTryName) {
				continue
			}
			if err != nil {
				return nil, err
			}
		}
		v, err = b.attached(ctx, id, node, device, readOnly)
		release(err == nil)
		if errors.Is(err, errTryName) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return attachedMap(v, readOnly), nil
	}
	return nil, fmt.Errorf("%w: EC2 refused %d device names in a row", backend.ErrUnavailable, maxNames)
}

func attachedMap(v types.Volume, readOnly bool) map[string]string {
	m := map[string]string{attachedPath: aws.ToString(attachmentOf(v).Device), attachedSize: strconv.FormatInt(int64(aws.ToInt32(v.Size))*gib, 10)}
	if readOnly {
		m[attachedRO] = "true"
	}
	if tagMap(v.Tags)[tagFormatted] != "" {
		m[attachedMade] = "true"
	}
	return m
}

// freeFor waits until a volume is attached nowhere or to this node, if it is on its way off another.
func (b *Backend) freeFor(ctx context.Context, id, node string) (v types.Volume, err error) {
	err = b.poll(ctx, 0, func() error {
		if v, err = b.volume(ctx, id); err != nil {
			return err
		}
		a := attachmentOf(v)
		switch {
		case a == nil:
			if v.State == types.VolumeStateCreating {
				return errNotYet
			}
			if v.State == types.VolumeStateError {
				return fmt.Errorf("%w: EC2 says state error", backend.ErrDamaged)
			}
			return nil
		case a.State == types.VolumeAttachmentStateDetaching:
			return errNotYet
		case aws.ToString(a.InstanceId) != node:
			return fmt.Errorf("%w: %s", backend.ErrAttachedElsewhere, aws.ToString(a.InstanceId))
		}
		return nil
	})
	return v, err
}

// beginAttach asks EC2 to attach, at a device name that it chooses. The name is held until release is called.
func (b *Backend) beginAttach(ctx context.Context, v types.Volume, node string, readOnly bool) (device string, release func(attached bool), err error) {
	i, err := b.instance(ctx, node)
	if err != nil {
		return "", nil, err
	}
	if err := b.setReadOnly(ctx, v, node, readOnly); err != nil {
		return "", nil, err
	}
	id := aws.ToString(v.VolumeId)
	device, card, release, err := b.names.choose(i, id, b.cards(ctx, i))
	if err != nil {
		return "", nil, err
	}
	in := &ec2.AttachVolumeInput{VolumeId: aws.String(id), InstanceId: aws.String(node), Device: aws.String(device), EbsCardIndex: optional(card)}
	_, err = b.ec2.AttachVolume(ctx, in)
	err = translate("AttachVolume", err)
	var e *ec2Error
	switch {
	case err == nil, isCode(err, codeInUse): // in use: by an earlier try of ours, or it soon shows by whom
		return device, release, nil
	case isCode(err, codeDeviceInUse), errors.As(err, &e) && e.code == codeBadValue && strings.Contains(e.message, "already in use"), isCode(err, codeBadValue) && strings.Contains(err.Error(), "device name"):
		b.names.spoil(node, device)
		release(false)
		return "", nil, errTryName
	}
	release(false)
	return "", nil, err
}

// setReadOnly keeps in a tag, before the volume is attached, that it will be read-only: EC2 itself knows no such thing.
func (b *Backend) setReadOnly(ctx context.Context, v types.Volume, node string, readOnly bool) error {
	has := tagMap(v.Tags)[tagReadOnly]
	ids := []string{aws.ToString(v.VolumeId)}
	switch {
	case readOnly && has != node:
		_, err := b.ec2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: ids, Tags: []types.Tag{{Key: aws.String(tagReadOnly), Value: aws.String(node)}}})
		return translate("CreateTags", err)
	case !readOnly && has != "":
		_, err := b.ec2.DeleteTags(ctx, &ec2.DeleteTagsInput{Resources: ids, Tags: []types.Tag{{Key: aws.String(tagReadOnly)}}})
		return translate("DeleteTags", err)
	}
	return nil
}

// attached waits until the volume is attached. device is what was asked for, "" if that was not here.
// What hangs in attaching is taken off again; errTryName.
func (b *Backend) attached(ctx context.Context, id, node, device string, readOnly bool) (v types.Volume, err error) {
	t, begun := b.opt.Timing, time.Now()
	first := t.Poll
	if device == "" {
		first = 0
	}
	err = b.poll(ctx, first, func() error {
		waited := time.Since(begun) // before the look: an answer may be older than it seems
		if v, err = b.volume(ctx, id); err != nil {
			return err
		}
		a := attachmentOf(v)
		switch {
		case a == nil || a.State == types.VolumeAttachmentStateDetaching:
			if waited > t.Settle { // it was, and somebody took it off
				return takenBack(v)
			}
			return errNotYet
		case aws.ToString(a.InstanceId) != node:
			return fmt.Errorf("%w: %s", backend.ErrAttachedElsewhere, aws.ToString(a.InstanceId))
		case a.State == types.VolumeAttachmentStateAttached || a.State == types.VolumeAttachmentStateBusy:
			if (tagMap(v.Tags)[tagReadOnly] == node) != readOnly {
				return errNotYet // describes may show the tag later
			}
			return nil
		case waited > t.StuckAttach:
			return b.unstick(ctx, v, node, aws.ToString(a.Device))
		}
		return errNotYet
	})
	return v, err
}

// takenBack is what becomes of an attachment that EC2 took and then does not show.
func takenBack(v types.Volume) error {
	if !aws.ToBool(v.Encrypted) {
		return fmt.Errorf("%w: EC2 took the request and did not attach it, or somebody has detached it since", backend.ErrUnavailable)
	}
	return fmt.Errorf("%w: EC2 took the request and did not attach it; %s", backend.ErrUnavailable, keyHint(aws.ToString(v.KmsKeyId)))
}

// unstick takes off what hangs in attaching, and remembers not to use that name.
func (b *Backend) unstick(ctx context.Context, v types.Volume, node, device string) error {
	b.names.spoil(node, device)
	if err := b.detach(ctx, aws.ToString(v.VolumeId), node); err != nil {
		return fmt.Errorf("the attachment at %s hangs, and cannot be taken off: %w", device, err)
	}
	return errTryName
}

// Detach implements backend.Controller. Never by force: that is for people, and for Kubernetes' out-of-service taint.
func (b *Backend) Detach(ctx context.Context, id, node string) error {
	if !volumeID.MatchString(id) || node != "" && !instanceID.MatchString(node) {
		return ctx.Err()
	}
	unlock, err := b.volLocks.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	return b.detach(ctx, id, node)
}

// detach is called with the volume locked. It asks even if describes show no attachment: they may be behind, and a volume
// that is said to be detached and is not would be lost to its next node.
func (b *Backend) detach(ctx context.Context, id, node string) error {
	asked := false
	return b.poll(ctx, 0, func() error {
		v, err := b.volume(ctx, id)
		if missing := errors.Is(err, backend.ErrNotFound); missing && (asked || node == "" || errors.Is(err, errForeign)) {
			return nil
		} else if err != nil && !missing {
			return err
		}
		a := attachmentOf(v)
		here := a != nil && (node == "" || aws.ToString(a.InstanceId) == node)
		if asked || a == nil && node == "" {
			if here {
				return errNotYet
			}
			return nil
		}
		on := aws.String(node)
		if node == "" {
			on = a.InstanceId
		}
		asked = true
		_, err = b.ec2.DetachVolume(ctx, &ec2.DetachVolumeInput{VolumeId: aws.String(id), InstanceId: on})
		err = translate("DetachVolume", err)
		switch {
		case isCode(err, codeNotAttached, codeVolumeGone, codeNoInstance):
			return nil
		case err != nil && !isCode(err, codeState):
			return err
		}
		return errNotYet
	})
}
