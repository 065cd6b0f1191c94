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

// formatTick is how often the agent retries to write to a SealedVolume that does not belong to this
// node yet. The operator changes that soon after a volume was attached.
const formatTick = 200 * time.Millisecond

// formatOf returns the format state of a SealedVolume. A volume that has an anchor has been open,
// so it is formatted.
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

// known caches the recorded state, so that it is not written at each stage.
func (a *Agent) known(id string, s backend.FormatState) {
	v := a.volume(id)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.formatted = s == backend.FormatDone
}

// FormatState implements backend.FormatKeeper. It reads all SealedVolumes that the volume ever had
// from the API server itself: one whose PersistentVolume is gone also knows what the device held.
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

// KeepFormat implements backend.FormatKeeper. If the volume was just attached, its SealedVolume may
// not belong to this node yet; KeepFormat waits for that, up to a limit.
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

// keepFormat writes the state once, unless the recorded state is at least as advanced.
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
