package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume"
)

// answerTimeout limits requests that a server answers from memory.
const answerTimeout = 10 * time.Second

// mountReport is the JSON of info for a mount.
type mountReport struct {
	Target string `json:"target"`
	control.Status
	control.Stats
	Label      string              `json:"label,omitempty"`      // format v2
	Statistics *volume.Statistics  `json:"statistics,omitempty"` // format v2
	Rotation   *volumectl.Rotation `json:"rotation,omitempty"`   // of the data key, while one is running
}

// askMount asks the server of a mount for its state.
func askMount(ctx context.Context, server *control.Client, target string) (report, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	r := &mountReport{Target: target}
	var err error
	if r.Status, err = server.Status(ctx); err != nil {
		return nil, err
	}
	if r.Stats, err = server.Stats(ctx); err != nil {
		return nil, err
	}
	var st volume.Statistics
	switch err := server.Do(ctx, control.Request{Op: "statistics"}, &st); {
	case err == nil:
		r.Statistics = &st
	case errors.Is(err, control.ErrServer) && control.HasCode(err, control.CodeUnknown): // format v1
		return r, nil
	default:
		return nil, err
	}
	var label volumectl.Label
	if err := server.Do(ctx, control.Request{Op: "label"}, &label); err != nil && !control.HasCode(err, control.CodeUnknown) { // an earlier version has no labels
		return nil, err
	}
	r.Label = label.Label
	var keys volumectl.KeyList
	if err := server.Do(ctx, control.Request{Op: "key-list"}, &keys); err != nil {
		return nil, err
	}
	r.Rotation = keys.Rotation
	return r, nil
}

func (r *mountReport) text() string {
	var b bytes.Buffer
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-16s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	how := "read-write"
	if r.ReadOnly {
		how = "read-only"
	}
	line("Mount", "%s, %s, served by process %d", printable(r.Target), how, r.PID)
	switch {
	case r.Statistics == nil && r.Volume == "doublecrypt":
		line("Format", "v1 (doublecrypt)")
	case r.Statistics == nil:
		line("Stored snapshot", "%s", printable(r.Volume))
	case r.Volume != r.Statistics.UUID: // the driver's server
		line("Handle", "%s", printable(r.Volume))
	}
	line("Size", "%s, %s used, %s available", formatSize(r.TotalBytes), formatSize(r.UsedBytes), formatSize(r.AvailableBytes))
	line("Inodes", "%d", r.UsedInodes)
	if s := r.Statistics; s != nil {
		line("Volume", "%s", s.UUID)
		if r.Label != "" {
			line("Label", "%s", printable(r.Label))
		}
		line("Generation", "%d, %d commits since it was mounted", s.Generation, s.Commits)
		line("In memory", "%s of data and %s of log records are not on the device yet", formatSize(int64(s.DirtyBytes)), formatSize(int64(s.RingBytes)))
		line("Being freed", "%s", formatSize(int64(s.WaitingBytes)))
		line("Snapshots", "%d", s.Snapshots)
		if s.Freezes > 0 {
			line("Frozen", "yes, by %d freezes", s.Freezes)
		}
	}
	if t := r.Rotation; t != nil {
		line("Data key", "rotation %s: %s of about %s", t.Phase, formatSize(int64(t.DoneBytes)), formatSize(int64(t.TotalBytes)))
		if t.Waits != "" {
			line("Waiting for", "%s", printable(t.Waits))
		}
	}
	for _, c := range r.Conditions {
		line("Condition", "%s: %s", c.Reason, c.Message)
	}
	return b.String()
}
