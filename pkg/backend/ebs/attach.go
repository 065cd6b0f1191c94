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

// Keys in the map that Attach passes to the node.
const (
	attachedPath = "devicePath" // the device name that EC2 uses; udev may have created a link of this name
	attachedSize = "sizeBytes"  // the minimum size
	attachedRO   = "ebsReadOnly"
	attachedMade = "formatted" // "true": the volume has the tag; otherwise the key is missing
)

// maxNames is how many device names one call tries.
const maxNames = 4

// errTryName: retry with another device name.
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
	return nil, fmt.Errorf("%w: EC2 refused %d device names in a row; a retry tries others", backend.ErrUnavailable, maxNames)
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

// freeFor waits while a volume is detaching from another node, until it is detached or attached to
// this node.
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
				return fmt.Errorf("%w: EC2 reports the state error for the volume", backend.ErrDamaged)
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

// beginAttach asks EC2 to attach the volume at a device name that it chooses. The name is reserved
// until release is called.
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
	case err == nil, isCode(err, codeInUse): // in use: through an earlier attempt of this driver, or describes soon show the other user
		return device, release, nil
	case isCode(err, codeDeviceInUse), errors.As(err, &e) && e.code == codeBadValue && strings.Contains(e.message, "already in use"), isCode(err, codeBadValue) && strings.Contains(err.Error(), "device name"):
		b.names.spoil(node, device)
		release(false)
		return "", nil, errTryName
	}
	release(false)
	return "", nil, err
}

// setReadOnly records in a tag, before the volume is attached, that it will be read-only. EC2 does
// not have read-only attachments.
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

// attached waits until the volume is attached. device is the requested name, or "" if another call
// requested it. If the attachment hangs, attached detaches it and returns errTryName.
func (b *Backend) attached(ctx context.Context, id, node, device string, readOnly bool) (v types.Volume, err error) {
	t, begun := b.opt.Timing, time.Now()
	first := t.Poll
	if device == "" {
		first = 0
	}
	err = b.poll(ctx, first, func() error {
		waited := time.Since(begun) // take the time before the call, because an answer may be older than it seems
		if v, err = b.volume(ctx, id); err != nil {
			return err
		}
		a := attachmentOf(v)
		switch {
		case a == nil || a.State == types.VolumeAttachmentStateDetaching:
			if waited > t.Settle { // it was attached, and somebody detached it
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

// takenBack returns the error for an attachment that EC2 accepted and then does not show.
func takenBack(v types.Volume) error {
	if !aws.ToBool(v.Encrypted) {
		return fmt.Errorf("%w: EC2 accepted the request, but the volume is not attached: EC2 dropped the request, or somebody detached the volume", backend.ErrUnavailable)
	}
	return fmt.Errorf("%w: EC2 accepted the request, but did not attach the volume; %s", backend.ErrUnavailable, keyHint(aws.ToString(v.KmsKeyId)))
}

// unstick detaches a hanging attachment, and remembers not to use that device name.
func (b *Backend) unstick(ctx context.Context, v types.Volume, node, device string) error {
	b.names.spoil(node, device)
	if err := b.detach(ctx, aws.ToString(v.VolumeId), node); err != nil {
		return fmt.Errorf("the attachment at %s hangs and cannot be detached: %w", device, err)
	}
	return errTryName
}

// Detach implements backend.Controller. It never detaches by force: only people and Kubernetes'
// out-of-service taint may do that.
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

// detach is called with the volume locked. It asks EC2 even if describes show no attachment,
// because they may be outdated, and the next node could not attach a volume that is wrongly
// reported as detached.
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
