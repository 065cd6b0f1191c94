package nodeagent

import (
	"context"
	"fmt"
	"time"
)

// Anchor returns the anchor that a volume must be opened with, as text for its mount server, or ""
// if it never had one. It reads from the API server itself, because a cache may be outdated.
//
// A volume that moves may be attached here before the operator has recorded that, or while the
// operator is down. So a SealedVolume that belongs to another node counts, too: the anchor is the
// same.
func (a *Agent) Anchor(ctx context.Context, id string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	if a.opt.Attachments { // the volume may have changed on another node since its last anchor was taken here
		v := a.volume(id)
		v.mu.Lock()
		v.anchor, v.confirmed = nil, 0
		v.mu.Unlock()
	}
	sv, err := a.findAt(ctx, a.live, id, a.opt.Attachments)
	if err != nil {
		return "", fmt.Errorf("cannot read the anchor of the volume: %w", err)
	}
	a.known(id, formatOf(sv))
	if sv.Status.Anchor == nil {
		return "", nil
	}
	return text(sv.Status.Anchor)
}

// Staged must be called after a volume was mounted.
func (a *Agent) Staged(id string) {
	v := a.volume(id)
	v.mu.Lock()
	// Its mount server is new: report everything.
	v.unstaging, v.confirmed, v.quietTill, v.reported = false, 0, time.Time{}, time.Time{}
	v.mu.Unlock()
	a.look()
}

// Remounted must be called after a volume was mounted again because its mount server had died. The
// agent may not have seen the dead server, but there are containers to restart.
func (a *Agent) Remounted(id string) {
	v := a.volume(id)
	v.mu.Lock()
	v.remounted = true
	v.mu.Unlock()
	a.Staged(id)
}

// Unstaging must be called before a volume is unmounted, when no pod writes to it any more. It
// publishes an anchor of everything in the volume. If that fails, the unmount continues.
func (a *Agent) Unstaging(ctx context.Context, id string) {
	v := a.volume(id)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.unstaging = true
	s := a.observe(ctx, id, v, true)
	if !s.mounted {
		return
	}
	if err := a.publish(ctx, id, v, s, true); err != nil {
		a.opt.Log.Warn("cannot publish the last anchor of the volume yet: a rollback of the device to a state after the previous anchor would not be detected", "volume", id, "error", err)
	}
}

// Unstaged must be called after a volume was unmounted, or could not be unmounted.
func (a *Agent) Unstaged(id string) {
	v := a.volume(id)
	v.mu.Lock()
	v.unstaging = false
	v.mu.Unlock()
	a.look()
}
