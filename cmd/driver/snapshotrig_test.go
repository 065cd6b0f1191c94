package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/handover"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
	"github.com/sealvol/sealvol/pkg/mounter/workerstore"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
)

// snapRig is a mounted, encrypted volume with a mounter in a process of its own, and a store.
type snapRig struct {
	*rig
	client mounter.Client
	store  chunkstore.Store
	tenant []byte
	kek    []byte // of the stored snapshots
	key    []byte // of the volume
	device string
}

func newSnapRig(t *testing.T) *snapRig {
	t.Helper()
	return newSnapRigOn(t, false)
}

// newSnapRigOn has the volume on a block device or in an image file. flags are the mounter's.
func newSnapRigOn(t *testing.T, block bool, flags ...string) *snapRig {
	t.Helper()
	t.Setenv(envEngine, "1")
	r := &snapRig{rig: newRig(t), store: chunkstore.NewMemory(), tenant: []byte("0123456789-TENANT-SECRET-0123456"), kek: []byte("THE-KEY-OF-STORED-SNAPSHOTS-0123"), key: []byte("THE-KEY-OF-THE-VOLUME-0123456789")}
	r.client = mounter.Client{Socket: mounter.SocketPath(r.path("mounter"))}
	if err := os.WriteFile(r.path("image"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(r.path("image"), snapSize); err != nil {
		t.Fatal(err)
	}
	r.device = r.path("image")
	if block {
		r.device = loopDevice(t, r.device)
	}
	if err := os.Mkdir(r.path("target"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.rig.mounter = flags
	r.start("mounter", 0)
	r.mount()
	t.Cleanup(func() {
		if err := r.client.Unmount(r.ctx(), r.unmountRequest()); err != nil && !t.Failed() {
			t.Error(err)
		}
	})
	return r
}

const (
	snapVolume = "vol-1"
	snapSize   = 256 << 20
)

// loopDevice binds a file to a loop device, and returns its path.
func loopDevice(t *testing.T, image string) string {
	t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ctl.Close()
	for {
		minor, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("/dev/loop%d", minor)
		dev, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &unix.LoopConfig{Fd: uint32(f.Fd()), Size: 4096})
		if errors.Is(err, unix.EBUSY) { // another program was faster
			dev.Close()
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0); err != nil {
				t.Error(err)
			}
			dev.Close()
		})
		return name
	}
}

func (r *snapRig) request() mounter.MountRequest {
	r.t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(r.device, &st); err != nil {
		r.t.Fatal(err)
	}
	dev := mounter.Device{Path: r.device, SizeBytes: snapSize, Dev: st.Dev, Ino: st.Ino}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		dev = mounter.Device{Path: r.device, SizeBytes: snapSize, Rdev: st.Rdev}
	}
	k, err := mounter.NewKeys(bytes.Clone(r.key), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return mounter.MountRequest{Volume: snapVolume, Source: fmt.Sprintf("sealvol:%d.snap", os.Getpid()), Target: r.path("target"),
		Device: dev, Format: &mounter.Format{}, Keys: k}
}

func (r *snapRig) unmountRequest() mounter.UnmountRequest {
	q := r.request()
	return mounter.UnmountRequest{Volume: q.Volume, Source: q.Source, Target: q.Target}
}

func (r *snapRig) mount() {
	r.t.Helper()
	if err := r.client.Mount(r.ctx(), r.request()); err != nil {
		r.t.Fatal(err)
	}
}

// use writes and reads a file: the application goes on.
func (r *snapRig) use() {
	r.t.Helper()
	name := filepath.Join(r.path("target"), "file")
	text := fmt.Appendf(nil, "text of %d", time.Now().UnixNano())
	if err := writeDurably(name, text); err != nil {
		r.t.Fatal(err)
	}
	if b, err := os.ReadFile(name); err != nil || !bytes.Equal(b, text) {
		r.t.Fatalf("%q, %v", b, err)
	}
}

// secrets returns a pipe with the tenant's secret and a key.
func (r *snapRig) secrets() *os.File {
	r.t.Helper()
	tenant, err := crypto.NewKey(bytes.Clone(r.tenant))
	if err != nil {
		r.t.Fatal(err)
	}
	kek, err := crypto.NewKey(bytes.Clone(r.kek))
	if err != nil {
		r.t.Fatal(err)
	}
	s := handover.Secrets{Tenants: []handover.Tenant{{Epoch: 1, Secret: tenant}}, KEKs: []*crypto.Key{kek}}
	defer s.Erase()
	f, err := s.Pipe()
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

// serve serves the store to the worker of a snapshot.
func (r *snapRig) serve(id string) *workerstore.End {
	r.t.Helper()
	s, err := format.ParseID(id)
	if err != nil {
		r.t.Fatal(err)
	}
	e, err := workerstore.Serve(context.Background(), r.store, workerstore.Rights("", s))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = e.Close() })
	return e
}

// begin starts a job.
func (r *snapRig) begin(s workerctl.Start, p jobParams) (*workerstore.End, error) {
	r.t.Helper()
	end := r.serve(s.ID)
	return end, r.beginOn(s, p, end.Worker)
}

// beginOn starts a job with a socket to the store, and closes that.
func (r *snapRig) beginOn(s workerctl.Start, p jobParams, store *os.File) error {
	r.t.Helper()
	b, err := json.Marshal(p)
	if err != nil {
		r.t.Fatal(err)
	}
	s.Volume, s.Params = snapVolume, b
	secrets := r.secrets()
	defer secrets.Close()
	defer store.Close()
	return r.client.StartSnapshot(r.ctx(), s, secrets, store)
}

// dataKeys unmounts the volume and returns its data keys.
func (r *snapRig) dataKeys(t *testing.T) (keys [][]byte) {
	t.Helper()
	if err := r.client.Unmount(r.ctx(), r.unmountRequest()); err != nil {
		t.Fatal(err)
	}
	dev, err := device.Open(r.path("image"), device.OpenOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dev.Close() }()
	k, err := crypto.NewKey(bytes.Clone(r.key))
	if err != nil {
		t.Fatal(err)
	}
	cred := crypto.SecretCredential(k)
	defer cred.Erase()
	p, err := pinned.ReadKeys(dev, cred)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Erase()
	for _, e := range p.Epochs {
		keys = append(keys, bytes.Clone(e.VMK.Bytes()))
	}
	return keys
}

func (r *snapRig) mustBegin(s workerctl.Start, p jobParams) *workerstore.End {
	r.t.Helper()
	e, err := r.begin(s, p)
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}

// until waits for a state of the job.
func (r *snapRig) until(what string, ok func(workerctl.Status) bool) workerctl.Status {
	r.t.Helper()
	ctx := r.ctx()
	for {
		s, err := r.client.SnapshotStatus(ctx, snapVolume)
		if err == nil && ok(s) {
			return s
		}
		select {
		case <-ctx.Done():
			r.t.Fatalf("not %s: %+v, %v", what, s, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (r *snapRig) untilEnd(want workerctl.Outcome) workerctl.Status {
	r.t.Helper()
	s := r.until("ended", func(s workerctl.Status) bool { return s.Outcome != workerctl.Running })
	if s.Outcome != want {
		r.t.Fatalf("%+v", s)
	}
	return s
}

func (r *snapRig) untilRunning() workerctl.Status {
	r.t.Helper()
	return r.until("running", func(s workerctl.Status) bool { return s.Progress.BytesDone > 0 })
}

// local waits until the local snapshots are as wanted: it is the mount server's answer to the end of
// a job, which comes a moment later.
func (r *snapRig) local(want ...string) {
	r.t.Helper()
	ctx := r.ctx()
	var names []string
	for {
		list, err := volumectl.Snapshots(ctx, r.server())
		if err != nil {
			r.t.Fatalf("%v; before that, local snapshots %v, want %v", err, names, want)
		}
		names = nil
		for _, s := range list {
			if !s.Deleting {
				names = append(names, strings.TrimPrefix(s.Name, workerctl.LocalPrefix))
			}
		}
		if strings.Join(names, " ") == strings.Join(want, " ") {
			return
		}
		select {
		case <-ctx.Done():
			r.t.Fatalf("local snapshots %v, want %v", names, want)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (r *snapRig) server() control.Client {
	return control.Client{Path: mounter.ControlPath(r.path("mounter"), snapVolume)}
}

func newSnapshot() string { return format.NewID().String() }

// long is a job that goes on until it is ended.
var long = jobParams{Blocks: 1 << 30, Pause: 5 * time.Millisecond}
