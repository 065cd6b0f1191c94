package mounter

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sealvol/sealvol/pkg/mounter/control"
)

const askTimeout = 5 * time.Second // statistics and status, answered from memory

// handKeys gives the keys to a server that lives. The volume's lock is not held: a frozen volume may keep the server waiting.
func (m *Mounter) handKeys(ctx context.Context, server control.Client, k Keys) error {
	ctx, cancel := context.WithTimeout(ctx, m.opt.MountTimeout)
	defer cancel()
	keys, err := k.pipe()
	if err != nil {
		return err
	}
	defer keys.Close()
	m.opt.Hook("hand keys")
	err = server.Do(ctx, control.Request{Op: control.KeyCurrent, File: keys}, nil)
	switch {
	case err == nil:
		m.opt.Hook("keys handed")
		return nil
	case control.HasCode(err, control.CodeUnknown): // of a version that keeps the keys it was started with
		return nil
	case control.HasCode(err, control.CodeWrongKey):
		return fmt.Errorf("%w, mounted as it is: %w", ErrWrongKey, err)
	}
	return fmt.Errorf("%w: keys: %w", ErrServer, err)
}

// CheckKeys gives keys to a volume's server, as Mount does with ReplaceKey: ErrWrongKey if they are not
// the volume's.
func (m *Mounter) CheckKeys(ctx context.Context, volume string, k Keys) error {
	server, err := m.server(ctx, volume)
	if err != nil {
		return err
	}
	if k.Empty() {
		return ErrNoKey
	}
	return m.handKeys(ctx, server, k)
}

// server returns the control client of a living server.
func (m *Mounter) server(ctx context.Context, id string) (control.Client, error) {
	v, err := m.acquire(ctx, id)
	if err != nil {
		return control.Client{}, err
	}
	defer m.release(id, v)
	if v.rec == nil {
		return control.Client{}, ErrNotMounted
	}
	if v.proc == nil || !v.proc.alive() {
		return control.Client{}, ErrDead
	}
	return v.proc.ask, nil
}

// Grow lets a mounted volume take in what its device has grown by; returns its size in bytes, of a raw block volume that of its device.
func (m *Mounter) Grow(ctx context.Context, id string) (int64, error) {
	c, err := m.server(ctx, id)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, m.opt.StopTimeout)
	defer cancel()
	n, err := c.Grow(ctx)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrServer, err)
	}
	v, err := m.acquire(ctx, id)
	if err != nil {
		return 0, err
	}
	defer m.release(id, v)
	if v.rec == nil || v.rec.BlockBytes == 0 {
		return n, nil
	}
	if err := m.attach(ctx, v, RawBytes(n), false); err != nil {
		return 0, err
	}
	return v.rec.BlockBytes, nil
}

// Stats returns how full a mounted volume is.
func (m *Mounter) Stats(ctx context.Context, id string) (control.Stats, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c, err := m.server(ctx, id)
	if err != nil {
		return control.Stats{}, err
	}
	s, err := c.Stats(ctx)
	if err != nil {
		return control.Stats{}, fmt.Errorf("%w: %w", ErrServer, err)
	}
	return s, nil
}

// Health returns what is known of a volume here, with its adverse conditions. ErrNotMounted.
func (m *Mounter) Health(ctx context.Context, id string) (Info, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	i, server, err := m.info(ctx, id)
	if err != nil {
		return Info{}, err
	}
	if !i.Alive {
		i.Conditions = []control.Condition{{Inaccessible: true, Reason: "MountServerDead",
			Message: "the process that serves the volume has ended: its users get \"Transport endpoint is not connected\". If Sealvol runs on the node, " +
				"the volume is mounted again when the kubelet next stages or publishes it, and pods that used it must be restarted"}}
		return i, nil
	}
	s, err := server.Status(ctx)
	switch {
	case err != nil:
		i.Conditions = []control.Condition{{Inaccessible: true, Reason: "MountServerUnresponsive", Message: "the process that serves the volume does not answer"}}
	case s.Volume != id:
		i.Conditions = []control.Condition{{Inaccessible: true, Reason: "MountServerForeign", Message: "the process that answers serves another volume"}}
	default:
		i.Conditions = s.Conditions
	}
	return i, nil
}

// info describes a volume, and says how its server is asked, if one lives.
func (m *Mounter) info(ctx context.Context, id string) (i Info, server control.Client, err error) {
	v, err := m.acquire(ctx, id)
	if err != nil {
		return Info{}, server, err
	}
	defer m.release(id, v)
	if v.rec == nil {
		return Info{}, server, ErrNotMounted
	}
	i = Info{Volume: id, Target: v.rec.Target, PID: v.rec.PID, BlockBytes: v.rec.BlockBytes}
	if p := v.proc; p != nil {
		i.Alive, i.Adopted, i.HoldsFuse = p.alive(), p.adopted, p.holdsFuse()
		server = p.ask
	}
	return i, server, nil
}

// List returns all volumes of the mounter, ordered by id.
func (m *Mounter) List(ctx context.Context) []Info {
	m.mu.Lock()
	var ids []string
	for id := range m.volumes {
		ids = append(ids, id)
	}
	m.mu.Unlock()
	slices.Sort(ids)
	var list []Info
	for _, id := range ids {
		if i, _, err := m.info(ctx, id); err == nil {
			list = append(list, i)
		}
	}
	return list
}
