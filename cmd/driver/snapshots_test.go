package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

// copyOf returns the workflow of a volume that is created from a source, with the key of w.
func (w *workflow) copyOf(name string, source *csi.VolumeContentSource, required int64) *workflow {
	return &workflow{r: w.r, name: name, source: source, required: required, capability: w.capability}
}

func fromSnapshot(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id}}}
}

func fromVolume(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id}}}
}

func (w *workflow) snapshot(name string) (*csi.Snapshot, error) {
	s, err := w.r.ctrl.CreateSnapshot(w.r.ctx(), &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: w.id})
	return s.GetSnapshot(), err
}

// TestSnapshotOfMounted takes snapshots and clones of a volume while programs write to it all the
// time: each has the state of one moment, with everything that was synced before the call. A copy
// is a separate device, opens with the key of its source, and has grown.
func TestSnapshotOfMounted(t *testing.T) {
	t.Setenv(envEngine, "1")
	r := newRig(t)
	r.start("all", 0)
	r.connect("all", "all")
	w := &workflow{r: r}
	w.run(w.up())
	if err := os.WriteFile(filepath.Join(w.target(), "before"), []byte("synced"), 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(w.target())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		t.Fatal(err)
	}
	// Two files that always grow one after the other: in a torn copy, their sizes do not match.
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- growPair(w.target(), stop) }()
	snap, err := w.snapshot("snap")
	if err != nil || !snap.GetReadyToUse() {
		t.Fatal(snap, err)
	}
	restored := w.copyOf("restored", fromSnapshot(snap.GetSnapshotId()), 2*size)
	clone := w.copyOf("clone", fromVolume(w.id), 0)
	restored.run(restored.up())
	clone.run(clone.up())
	close(stop)
	if err := <-done; err != nil {
		t.Fatal("the writer was disturbed: ", err)
	}
	for _, c := range []*workflow{restored, clone} {
		c.checkCopy(t, w.id)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(restored.target(), &st); err != nil || int64(st.Blocks)*st.Bsize < 2*size*9/10 {
		t.Fatal("it has not grown: ", int64(st.Blocks)*st.Bsize, err)
	}
	if _, err := os.Stat(filepath.Join(w.target(), "own")); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("a copy wrote to its source: ", err)
	}
	clone.refuseKey(t) // also on a mounted volume
	all := []*workflow{w, restored, clone}
	instances := map[crypto.UUID]bool{}
	for range 2 { // the instance ID does not change again
		for _, c := range all {
			c.run(c.down()[:3])
			instances[instance(t, r.path("local/images/"+c.id+".img"), c.secrets()["kek"])] = true
			c.run(c.up())
		}
	}
	if len(instances) != 3 {
		t.Fatal("instances: ", instances)
	}
	clone.run(clone.down()[:2])
	clone.refuseKey(t)
	if _, err := r.ctrl.DeleteSnapshot(r.ctx(), &csi.DeleteSnapshotRequest{SnapshotId: snap.GetSnapshotId()}); err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		c.run(c.down())
	}
	r.wantClean()
}

// checkCopy checks a copy of the volume source, and writes to it.
func (w *workflow) checkCopy(t *testing.T, source string) {
	t.Helper()
	if b, err := os.ReadFile(filepath.Join(w.target(), "before")); err != nil || string(b) != "synced" {
		t.Fatalf("%s: %q %v", w.name, b, err)
	}
	checkPair(t, w.target())
	if err := os.WriteFile(filepath.Join(w.target(), "own"), []byte(w.name), 0o644); err != nil {
		t.Fatal(err)
	}
	if w.context["keyVolume"] != source {
		t.Fatal(w.context)
	}
}

// refuseKey expects that another key is refused.
func (w *workflow) refuseKey(t *testing.T) {
	t.Helper()
	_, err := w.r.node.NodeStageVolume(w.r.ctx(), &csi.NodeStageVolumeRequest{VolumeId: w.id, StagingTargetPath: w.staging(), VolumeCapability: multiWriter(),
		VolumeContext: w.context, Secrets: map[string]string{"kek": strings.Repeat("f", 64)}})
	if status.Code(err) != codes.Unauthenticated {
		t.Fatal(err)
	}
}

// growPair appends to a, then to b, until stop.
func growPair(dir string, stop <-chan struct{}) error {
	var files [2]*os.File
	for i, name := range []string{"a", "b"} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		defer f.Close()
		files[i] = f
	}
	for n := 0; ; n++ {
		select {
		case <-stop:
			return nil
		default:
		}
		for _, f := range files {
			if _, err := f.Write(bytes.Repeat(fmt.Appendf(nil, "%08d", n), 1024)); err != nil {
				return err
			}
		}
		if n%10 == 0 {
			if err := files[0].Sync(); err != nil {
				return err
			}
		}
	}
}

func checkPair(t *testing.T, dir string) {
	t.Helper()
	a, err := os.ReadFile(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "b"))
	if err != nil {
		t.Fatal(err)
	}
	if d := len(a) - len(b); d < 0 || d > 8192 || !bytes.HasPrefix(a, b) {
		t.Fatalf("out of step: %d and %d bytes", len(a), len(b))
	}
	for n := range len(a) / 8192 {
		if want := fmt.Appendf(nil, "%08d", n); !bytes.Equal(a[n*8192:n*8192+8], want) || !bytes.Equal(a[n*8192+8184:(n+1)*8192], want) {
			t.Fatalf("piece %d is torn", n)
		}
	}
}

// instance returns the instance ID of the newest root of an image that no process has open.
func instance(t *testing.T, path, kek string) crypto.UUID {
	t.Helper()
	dev, err := device.Open(path, device.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	}()
	key, err := crypto.ParseKeyFile([]byte(kek))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Erase()
	v, err := volume.Open(dev, volume.Options{Credential: crypto.SecretCredential(key)})
	if err != nil {
		t.Fatal(err)
	}
	a, err := v.OfferAnchor()
	if err := errors.Join(err, v.Close()); err != nil {
		t.Fatal(err)
	}
	return a.Instance
}

// TestSnapshotOfRaw: a device while it is written, and a copy of it that is larger.
func TestSnapshotOfRaw(t *testing.T) {
	t.Setenv(envEngine, "1")
	r := newRig(t)
	r.start("all", 0)
	r.connect("all", "all")
	w := &workflow{r: r, capability: blockDevice()}
	w.run(w.up())
	text := bytes.Repeat([]byte("raw data"), 1024)
	write := func(b []byte) {
		t.Helper()
		f, err := os.OpenFile(w.target(), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt(b, 1<<20)
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	write(text)
	snap, err := w.snapshot("snap")
	if err != nil || snap.GetSizeBytes() != size {
		t.Fatal(snap, err)
	}
	write(bytes.ToUpper(text))
	c := w.copyOf("restored", fromSnapshot(snap.GetSnapshotId()), 2*size)
	c.run(c.up())
	f, err := os.Open(c.target())
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	_, err = f.ReadAt(got, 1<<20)
	n, serr := f.Seek(0, 2)
	if err := errors.Join(err, serr, f.Close()); err != nil || n != 2*size || !bytes.Equal(got, text) {
		t.Fatal(n, err, bytes.Equal(got, text))
	}
	files := w.copyOf("files", fromSnapshot(snap.GetSnapshotId()), 0)
	files.capability = multiWriter()
	if err := files.up()[0](); status.Code(err) != codes.InvalidArgument {
		t.Fatal(err)
	}
	c.run(c.down())
	w.run(w.down())
	if _, err := r.ctrl.DeleteSnapshot(r.ctx(), &csi.DeleteSnapshotRequest{SnapshotId: snap.GetSnapshotId()}); err != nil {
		t.Fatal(err)
	}
	r.wantClean()
}
