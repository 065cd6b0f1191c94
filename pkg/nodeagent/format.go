package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/backend"
)

var _ backend.FormatKeeper = (*Agent)(nil)

// formatTick is how often it is tried to write to a SealedVolume that is not this node's yet: the
// operator says so soon after a volume was attached.
const formatTick = 200 * time.Millisecond

// formatOf is what a SealedVolume keeps. A volume that has an anchor was open.
func formatOf(sv *v1alpha1.SealedVolume) backend.FormatState {
	f := sv.Status.Format
	switch {
	case sv.Status.Anchor != nil, f != nil && f.State == v1alpha1.FormatFormatted:
		return backend.FormatDone
	case f != nil:
		return backend.FormatBegun
	}
	return backend.FormatNone
}

// known remembers what is kept, so that it is not written at each stage.
func (a *Agent) known(id string, s backend.FormatState) {
	v := a.volume(id)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.formatted = s == backend.FormatDone
}

// FormatState implements backend.FormatKeeper. It is asked of the API server itself, and of all
// SealedVolumes that the volume ever had: also one whose PersistentVolume is gone knows what its
// device held.
func (a *Agent) FormatState(ctx context.Context, id string) (backend.FormatState, error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	var list v1alpha1.SealedVolumeList
	if err := a.live.List(ctx, &list, client.MatchingFields{fieldHandle: id}); err != nil {
		return backend.FormatNone, fmt.Errorf("find the SealedVolume: %w", err)
	}
	if len(list.Items) == 0 {
		return backend.FormatNone, errNoVolume
	}
	all := backend.FormatNone
	for i := range list.Items {
		if s := formatOf(&list.Items[i]); s == backend.FormatDone || all == backend.FormatNone {
			all = s
		}
	}
	return all, nil
}

// KeepFormat implements backend.FormatKeeper. A volume that was attached a moment ago may not be
// this node's yet to write to: that is waited for, within bounds.
func (a *Agent) KeepFormat(ctx context.Context, id string, s backend.FormatState) error {
	v := a.volume(id)
	v.mu.Lock()
	formatted := v.formatted
	v.mu.Unlock()
	if formatted {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	tick := time.NewTicker(formatTick)
	defer tick.Stop()
	for {
		err := a.keepFormat(ctx, id, s)
		if err == nil {
			a.known(id, s)
			return nil
		}
		if !errors.Is(err, errNoVolume) && !apierrors.IsConflict(err) && !apierrors.IsForbidden(err) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// keepFormat writes it once, unless what is kept is as far.
func (a *Agent) keepFormat(ctx context.Context, id string, s backend.FormatState) error {
	sv, err := a.find(ctx, a.live, id)
	if err != nil {
		return err
	}
	f := v1alpha1.VolumeFormat{State: v1alpha1.FormatFormatting, Time: metav1.NewTime(time.Now().Truncate(time.Second))}
	if s == backend.FormatDone {
		f.State = v1alpha1.FormatFormatted
	}
	if is := sv.Status.Format; is != nil && (is.State == f.State || is.State == v1alpha1.FormatFormatted) {
		return nil
	}
	was := sv.DeepCopy()
	sv.Status.Format = &f
	if err := a.live.Status().Patch(ctx, sv, client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("write the status of SealedVolume %s: %w", sv.Name, err)
	}
	return nil
}
