package mounter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// fusePath returns where a volume's files are mounted.
func (r *record) fusePath() string {
	if r.BlockBytes > 0 {
		return r.hidden
	}
	return r.Target
}

// finish completes a mount after its server has started: the volume grows by what its device has
// grown while it was not mounted, and a raw block volume gets its device. It skips what was done
// before.
func (m *Mounter) finish(ctx context.Context, v *volume, r MountRequest) error {
	if !r.ReadOnly {
		m.opt.Hook("grow")
		if _, err := v.proc.ask.Grow(ctx); err != nil {
			return fmt.Errorf("%w: %w", ErrServer, err)
		}
	}
	if r.Block != nil {
		if err := m.attach(ctx, v, r.Block.SizeBytes, r.Block.ReadOnlyToo); err != nil {
			return err
		}
		if err := m.placeNodes(v.rec); err != nil {
			return err
		}
	}
	v.rec.Running = true
	m.opt.Hook("record running")
	return v.rec.save()
}

// current returns the loop devices of the present mount: those whose file has its device number.
func (m *Mounter) current(r *record) (devs []loopDev, err error) {
	top, err := at(r.fusePath())
	if err != nil || top == nil {
		return nil, err
	}
	dev := unix.Mkdev(uint32(top.Major), uint32(top.Minor))
	for _, l := range r.Loops {
		if l.Dev == dev {
			devs = append(devs, l)
		}
	}
	return devs, nil
}

// attach finds or creates the file and the loop devices, of at least the given size.
func (m *Mounter) attach(ctx context.Context, v *volume, sizeBytes int64, readOnlyToo bool) error {
	have, err := m.current(v.rec)
	if err != nil {
		return err
	}
	dir := v.rec.fusePath()
	bound, err := loopsOn(filepath.Join(dir, rawFile))
	if err != nil {
		return err
	}
	c := &attachCall{Dir: dir, SizeBytes: sizeBytes, ReadOnly: v.rec.ReadOnly, Bound: bound}
	if !v.rec.ReadOnly {
		c.Want = append(c.Want, false)
	}
	if v.rec.ReadOnly || readOnlyToo || slices.ContainsFunc(have, func(l loopDev) bool { return l.ReadOnly }) {
		c.Want = append(c.Want, true)
	}
	m.opt.Hook("attach loop")
	ctx, cancel := context.WithTimeout(ctx, m.opt.StopTimeout/2)
	defer cancel()
	r, err := m.loop(ctx, loopCall{Attach: c})
	if err != nil {
		return fmt.Errorf("attach raw block device: %w", err)
	}
	if len(r.Devs) != len(c.Want) {
		return errors.New("attach raw block device: unexpected answer of the loop helper")
	}
	// The helper has found all devices that are bound to the file. Whatever else the record lists
	// for this mount is gone.
	now := r.Devs[0].Dev
	v.rec.Loops = append(slices.DeleteFunc(v.rec.Loops, func(l loopDev) bool { return l.Dev == now }), r.Devs...)
	v.rec.BlockBytes = r.SizeBytes / RawAlign * RawAlign
	m.opt.Hook("record loop")
	return v.rec.save()
}

// letGo removes the devices of a volume, first the nodes, so that no publish can use them any more.
// dead says that their server has ended. The record stays and says that the mount is incomplete;
// mounting again repairs it.
func (m *Mounter) letGo(ctx context.Context, r *record, dead bool) error {
	if r.BlockBytes == 0 {
		return nil
	}
	r.Running = false
	m.opt.Hook("record released")
	if err := r.save(); err != nil {
		return err
	}
	m.opt.Hook("clear nodes")
	if err := unmountLazily(r.Source, r.Target); err != nil {
		return err
	}
	if err := m.findLoops(r); err != nil {
		return err
	}
	if len(r.Loops) == 0 {
		return nil
	}
	m.opt.Hook("detach loops")
	ctx, cancel := context.WithTimeout(ctx, m.opt.StopTimeout/2)
	defer cancel()
	now, err := m.current(r)
	if err != nil {
		return err
	}
	gone := slices.DeleteFunc(slices.Clone(r.Loops), func(l loopDev) bool { return !dead && slices.Contains(now, l) })
	_, err = m.loop(ctx, loopCall{Detach: &detachCall{Devs: gone, Dead: true}})
	if err == nil && !dead {
		_, err = m.loop(ctx, loopCall{Detach: &detachCall{Devs: now}})
	}
	if err != nil {
		return fmt.Errorf("detach raw block device: %w", err)
	}
	r.Loops = nil
	return r.save()
}

// findLoops adds devices to the record that a crash kept out of it: those bound to the file of the
// present mount.
func (m *Mounter) findLoops(r *record) error {
	path := r.fusePath()
	top, err := at(path)
	if err != nil || top == nil || top.FSType != FSType {
		return err
	}
	minors, err := loopsOn(filepath.Join(path, rawFile))
	if err != nil {
		return err
	}
	for _, n := range minors {
		if !slices.ContainsFunc(r.Loops, func(l loopDev) bool { return l.Minor == n }) {
			r.Loops = append(r.Loops, loopDev{Minor: n, Dev: unix.Mkdev(uint32(top.Major), uint32(top.Minor)), ReadOnly: isReadOnly(n)})
		}
	}
	return nil
}

// makeHidden creates the directory for the hidden mount of a raw block volume.
func (m *Mounter) makeHidden(r *record) error {
	if r.BlockBytes == 0 {
		return nil
	}
	for _, d := range []string{filepath.Dir(r.hidden), r.hidden} {
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// removeHidden removes that directory when nothing is mounted on it any more. If it is not empty,
// it stays.
func (m *Mounter) removeHidden(v *volume) {
	if err := unix.Rmdir(v.hidden); err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.opt.Log.Warn("hidden mount point not removed", "volume", v.rec.Volume, "error", err)
	}
}
