package csi

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/mounter"
)

// Self-attach is for backends whose volumes are reachable from a single node. The controller
// service then runs beside the node service on each node, and attaching and growing a device are
// steps of the node's calls:
//
//	stage     attach → mount        a stage that surely mounted nothing detaches again
//	unstage   unmount → detach
//	expand    grow the device → grow the volume
//	delete    an attachment whose volume is not mounted is removed first
//
// The backend's record is written before a mount and removed after the unmount. So a crash can
// leave a volume attached but not mounted, never the reverse. Such a volume can be staged, unstaged
// or deleted; each of them asks the mounter whether it is mounted.

// selfAttach is nil if an attacher and a resizer call the controller instead.
type selfAttach struct {
	volumes backend.Controller
	node    string // id
	mounter Mounter
	hook    func(step string)
}

// attach attaches the volume to this node. If staging fails, the caller passes the error to undo
// and returns its result.
func (a *selfAttach) attach(ctx context.Context, r staging, q mounter.MountRequest) (undo func(error) error, err error) {
	if a == nil {
		return func(err error) error { return err }, nil
	}
	v, err := a.volumes.Get(ctx, q.Volume)
	if err != nil {
		return nil, err
	}
	if err := checkAccessType(r.GetVolumeCapability(), v.Parameters, errPrecondition); err != nil {
		return nil, err
	}
	a.hook("attach")
	_, err = a.volumes.Attach(ctx, q.Volume, a.node, q.ReadOnly)
	if errors.Is(err, backend.ErrAttachedOtherwise) && a.release(ctx, q.Volume) == nil {
		_, err = a.volumes.Attach(ctx, q.Volume, a.node, q.ReadOnly)
	}
	if err != nil {
		return nil, fmt.Errorf("attach volume: %w", err)
	}
	a.hook("attached")
	return func(err error) error { return a.undo(ctx, q.Volume, err) }, nil
}

// undo detaches the volume after a failed stage, if nothing is mounted. The kubelet calls
// NodeUnstageVolume for a volume that may be staged, but not after an error that it considers
// final. After an error that leaves this open, the mounter may still be working, and the kubelet
// retries or unstages.
func (a *selfAttach) undo(ctx context.Context, id string, err error) error {
	if ctx.Err() != nil || errors.Is(err, mounter.ErrUnreachable) {
		return err
	}
	if rerr := a.release(ctx, id); rerr != nil && !errors.Is(rerr, backend.ErrBusy) {
		return errors.Join(err, fmt.Errorf("detach it again: %w", rerr))
	}
	return err
}

// release detaches a volume if it is surely not mounted here; otherwise it returns backend.ErrBusy.
func (a *selfAttach) release(ctx context.Context, id string) error {
	_, err := a.mounter.Health(ctx, id)
	if err == nil {
		return fmt.Errorf("%w: the volume is mounted on this node", backend.ErrBusy)
	}
	if !errors.Is(err, mounter.ErrNotMounted) {
		return err
	}
	return a.detach(ctx, id)
}

// detach detaches the volume from this node after it was unmounted.
func (a *selfAttach) detach(ctx context.Context, id string) error {
	if a == nil {
		return nil
	}
	a.hook("detach")
	if err := a.volumes.Detach(ctx, id, a.node); err != nil {
		return fmt.Errorf("detach volume: %w", err)
	}
	a.hook("detached")
	return nil
}

// grow grows a mounted volume's device to the requested size.
func (a *selfAttach) grow(ctx context.Context, id string, r *csi.CapacityRange) error {
	required, limit := r.GetRequiredBytes(), r.GetLimitBytes()
	if a == nil || required == 0 && limit == 0 {
		return nil
	}
	v, err := a.volumes.Get(ctx, id)
	if err != nil {
		return err
	}
	a.hook("expand")
	if _, err := expand(ctx, a.volumes, v, required, limit); err != nil {
		return err
	}
	a.hook("expanded")
	return nil
}

// delete deletes a volume that a crash left attached.
func (a *selfAttach) delete(ctx context.Context, id string, busy error) error {
	if a == nil {
		return busy
	}
	if err := a.release(ctx, id); err != nil {
		return errors.Join(busy, err)
	}
	return a.volumes.Delete(ctx, id)
}
