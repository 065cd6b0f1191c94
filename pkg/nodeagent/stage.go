package nodeagent

import (
	"context"
	"fmt"
	"time"
)

// Anchor returns the anchor that a volume has to be opened with, as text for its mount server; "" if it never had one. It is asked of the API server itself: what a
// cache has may be older.
//
// A volume that moves may be attached here before the operator has said so, and the operator may be down: its anchor is the same, whoever asks.
func (a *Agent) Anchor(ctx context.Context, id string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	if a.opt.Attachments { // what was taken of it when it was here before may be of another history by now
		v := a.volume(id)
		v.mu.Lock()
		v.anchor, v.confirmed = nil, 0
		v.mu.Unlock()
	}
	sv, err := a.findAt(ctx, a.live, id, a.opt.Attachments)
	if err != nil {
		return "", fmt.Errorf("its anchor is not known: %w", err)
	}
	a.known(id, formatOf(sv))
	if sv.Status.Anchor == nil {
		return "", nil
	}
	return text(sv.Status.Anchor)
}

// Staged is to be called when a volume was mounted.
func (a *Agent) Staged(id string) {
	v := a.volume(id)
	v.mu.Lock()
	// Its server is a new one: all is to be told.
	v.unstaging, v.confirmed, v.quietTill, v.reported = false, 0, time.Time{}, time.Time{}
	v.mu.Unlock()
	a.look()
}

// Remounted is to be called when a volume was mounted again whose server had died. That may have been too quick for anybody to see it dead, but
// there are containers that have to be restarted for it.
func (a *Agent) Remounted(id string) {
	v := a.volume(id)
	v.mu.Lock()
	v.remounted = true
	v.mu.Unlock()
	a.Staged(id)
}

// Unstaging is to be called before a volume is unmounted, when nobody writes to it any more: it publishes the anchor of all that it holds. That it
// could not is no reason to keep the volume.
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
		a.opt.Log.Warn("the last anchor of a volume is not published yet: an older state of the device would go unnoticed since the one before", "volume", id, "error", err)
	}
}

// Unstaged is to be called when a volume was unmounted, or could not be.
func (a *Agent) Unstaged(id string) {
	v := a.volume(id)
	v.mu.Lock()
	v.unstaging = false
	v.mu.Unlock()
	a.look()
}
