package mounter

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sealvol/sealvol/pkg/mounter/control"
)

const askTimeout = 5 * time.Second // for statistics and status, which the server answers from memory

// handKeys passes the keys to a running server. The caller does not hold the volume's lock, because
// a frozen volume may keep the server waiting.
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
	case control.HasCode(err, control.CodeUnknown): // a server of a version that only knows the keys from its start
		return nil
	case control.HasCode(err, control.CodeWrongKey):
		return fmt.Errorf("%w, and the mount continues unchanged: %w", ErrWrongKey, err)
	}
	return fmt.Errorf("%w: pass keys: %w", ErrServer, err)
}

// CheckKeys passes keys to a volume's server, as Mount does with ReplaceKey. It returns ErrWrongKey
// if they are not the volume's keys.
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

// server returns the control client of a running server.
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

// Grow grows a mounted volume to the size of its device. It returns the volume's size in bytes, or
// for a raw block volume the size of that device.
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

// Health returns the state of a volume on this node with its adverse conditions, or ErrNotMounted.
func (m *Mounter) Health(ctx context.Context, id string) (Info, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	i, server, err := m.info(ctx, id)
	if err != nil {
		return Info{}, err
	}
	if !i.Alive {
		i.Conditions = []control.Condition{{Inaccessible: true, Reason: "MountServerDead",
			Message: "the mount server of the volume has died: programs get \"Transport endpoint is not connected\". While Sealvol runs on the node, " +
				"the kubelet's next stage or publish call mounts the volume again; after that, restart the pods that use it"}}
		return i, nil
	}
	s, err := server.Status(ctx)
	switch {
	case err != nil:
		i.Conditions = []control.Condition{{Inaccessible: true, Reason: "MountServerUnresponsive", Message: "the mount server of the volume does not answer; reads and writes may hang. Check the mounter's log and whether the device responds"}}
	case s.Volume != id:
		i.Conditions = []control.Condition{{Inaccessible: true, Reason: "MountServerForeign", Message: "the mount server that answers serves another volume. Drain the node to unmount the volume"}}
	default:
		i.Conditions = s.Conditions
	}
	return i, nil
}

// info describes a volume and returns the control client of its server, if one runs.
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
