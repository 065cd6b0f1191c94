package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/pacing"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/mountserver/mounts"
	"github.com/sealvol/sealvol/pkg/snapshot/local"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

// source is the volume that a stored snapshot is made of.
type source struct {
	target string
	live   *control.Client // nil: it was not mounted
	cred   crypto.Credential
	key    *keyFlags // that cred is from, for messages
	id     crypto.UUID
	pid    int // of the server of a mount
}

// openSource finds out which volume is on a device, or mounted on a directory.
func openSource(ctx context.Context, target string, cred crypto.Credential, key *keyFlags) (*source, error) {
	live, err := serverOf(target)
	if err != nil {
		return nil, withHint(err, "give the directory on which a volume is mounted, or its device; to store a plain directory, copy it into a volume first")
	}
	s := &source{target: target, live: live, cred: cred, key: key}
	if live == nil {
		h, err := headerOf(target)
		if err != nil {
			return nil, err
		}
		s.id = h.ID
		return s, nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var st volume.Statistics
	err = live.Do(ctx, control.Request{Op: "statistics"}, &st)
	if control.HasCode(err, control.CodeUnknown) {
		return nil, errV1Snapshot(target)
	}
	if err == nil {
		s.id, err = crypto.ParseUUID(st.UUID)
	}
	if err == nil {
		var status control.Status
		status, err = live.Status(ctx)
		s.pid = status.PID
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", target, err)
	}
	return s, nil
}

func errV1Snapshot(target string) error {
	return withHint(fmt.Errorf("%s: a volume of format v1 has no snapshots", target), "convert it to a volume of the present format first: `sealvol convert`")
}

// headerOf reads the header of an unmounted volume.
func headerOf(path string) (*volume.HeaderInfo, error) {
	dev, err := device.Open(path, device.OpenOptions{ReadOnly: true, Shared: true})
	if err != nil {
		return nil, err
	}
	defer discard(dev)
	h, err := volume.ReadHeader(dev)
	if err == nil {
		return h, nil
	}
	if v1, v1err := isV1(dev); v1err == nil && v1 {
		return nil, errV1Snapshot(path)
	}
	return nil, volumeError(dev, path, err)
}

// change opens the volume for changes, for the time of work.
func (s *source) change(ctx context.Context, work func(v local.Volume) error) error {
	if s.live != nil {
		return work(&mountedVolume{*s.live, s.target})
	}
	dev, err := openDevice(s.target, false)
	if errors.Is(err, device.ErrInUse) { // it may be mounted by now
		if server := s.mounted(); server != nil {
			return work(server)
		}
	}
	if err != nil {
		return err
	}
	v, err := openOn(dev, s.target, s.cred, volume.Options{})
	if err != nil {
		discard(dev)
		return s.key.explain(err)
	}
	err = work(&openedVolume{v})
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = v.WaitFreed()
	}
	return errors.Join(err, v.Close(), dev.Close())
}

// mounted returns the server of the mount of the device, or nil.
func (s *source) mounted() local.Volume {
	dirs, err := mounts.Of(s.target)
	if err != nil {
		return nil
	}
	for _, dir := range dirs {
		if c, err := control.Find(dir); err == nil {
			return &mountedVolume{c, dir}
		}
	}
	return nil
}

// device opens the device to be read, while others use it.
func (s *source) device() (*device.File, error) {
	if s.live == nil {
		return device.Open(s.target, device.OpenOptions{ReadOnly: true, Shared: true})
	}
	proc := filepath.Join("/proc", strconv.Itoa(s.pid))
	var paths []string
	name := ""
	if abs, err := mounts.Resolve(s.target); err == nil {
		if m, err := mounts.On(abs); err == nil && m != nil {
			name = m.Source
			paths = append(paths, name, filepath.Join(proc, "root", name)) // it may be in another mount namespace
		}
	}
	if fds, err := filepath.Glob(proc + "/fd/*"); err == nil {
		paths = append(paths, fds...)
	}
	var denied error
	for _, p := range paths {
		dev, err := device.Open(p, device.OpenOptions{ReadOnly: true, Shared: true})
		if errors.Is(err, os.ErrPermission) && denied == nil {
			denied = err
		}
		if err != nil {
			continue
		}
		if holds(dev, s.id) {
			return dev, nil
		}
		discard(dev)
	}
	err := fmt.Errorf("%s: the device of the mounted volume cannot be opened here", s.target)
	if denied != nil {
		err = fmt.Errorf("%w: %w", err, denied)
	} else if name != "" {
		err = fmt.Errorf("%w: %s is not it", err, printable(name))
	}
	return nil, withHint(err, "run the command as a user who may read the device, such as root, and where the mount server (process "+
		strconv.Itoa(s.pid)+") and its device can be seen")
}

// paced returns the device, which is read slowly enough for those who use the volume if it is
// mounted, until ctx ends.
func (s *source) paced(ctx context.Context, dev device.Device) device.Device {
	if s.live == nil {
		return dev
	}
	p := pacing.NewPacer(0)
	go func() {
		g := pacing.NewGovernor(p)
		defer g.Free()
		err := s.live.Do(ctx, control.Request{Op: pacing.OpLoad, Item: func(b json.RawMessage) error {
			var l pacing.Load
			err := json.Unmarshal(b, &l)
			if err == nil {
				g.Next(l)
			}
			return err
		}}, nil)
		if err != nil && ctx.Err() == nil {
			say(os.Stderr, "warning: %s: the mount does not say how busy it is, so the snapshot may slow down its users: %v\n", s.target, err)
		}
	}()
	return pacing.Device(ctx, dev, p)
}

// headerTries is how often a header is read that its owner may be writing.
const headerTries = 3

func holds(dev device.Device, id crypto.UUID) bool {
	for range headerTries {
		if h, err := volume.ReadHeader(dev); err == nil {
			return h.ID == id
		}
	}
	return false
}

// openedVolume is a volume that this process has open.
type openedVolume struct{ v *volume.Volume }

// List implements local.Volume.
func (o *openedVolume) List(context.Context) (list []local.Snapshot, err error) {
	all, err := o.v.Snapshots()
	for _, i := range all {
		if !i.Deleting {
			list = append(list, local.Snapshot{Name: i.Name, Generation: i.Generation, Created: i.Created})
		}
	}
	return list, err
}

// Create implements local.Volume.
func (o *openedVolume) Create(_ context.Context, name string) error {
	_, err := o.v.CreateSnapshot(name)
	return err
}

// Delete implements local.Volume.
func (o *openedVolume) Delete(_ context.Context, name string) error {
	err := o.v.DeleteSnapshot(name)
	if errors.Is(err, volume.ErrNoSnapshot) {
		return nil
	}
	return err
}

// mountedVolume is a volume that a mount server has open.
type mountedVolume struct {
	server control.Client
	dir    string
}

// List implements local.Volume.
func (m *mountedVolume) List(ctx context.Context) (list []local.Snapshot, err error) {
	all, err := volumectl.Snapshots(ctx, m.server)
	for _, i := range all {
		if !i.Deleting {
			list = append(list, local.Snapshot{Name: i.Name, Generation: i.Generation, Created: i.Created})
		}
	}
	return list, err
}

// Create implements local.Volume.
func (m *mountedVolume) Create(ctx context.Context, name string) error {
	if err := volumectl.WriteBack(ctx, m.server, m.dir); err != nil {
		return err
	}
	err := m.server.Do(ctx, control.Request{Op: "snapshot-create", Args: volumectl.SnapshotArgs{Name: name}}, nil)
	if err != nil && strings.Contains(err.Error(), "read-only") {
		err = withHint(err, "mount the volume read-write, or unmount it and give its device")
	}
	return err
}

// Delete implements local.Volume.
func (m *mountedVolume) Delete(ctx context.Context, name string) error {
	err := m.server.Do(ctx, control.Request{Op: "snapshot-delete", Args: volumectl.SnapshotArgs{Name: name}}, nil)
	if control.HasCode(err, volumectl.CodeNotFound) {
		return nil
	}
	return err
}
