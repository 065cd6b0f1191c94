package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

// wants expects an error with a code that contains all texts.
func wants(t *testing.T, err error, code codes.Code, texts ...string) {
	t.Helper()
	for _, s := range texts {
		if err == nil || !strings.Contains(err.Error(), s) {
			t.Errorf("%v: does not say %q", err, s)
		}
	}
	if status.Code(err) != code {
		t.Fatalf("%v, want %v", err, code)
	}
}

// wipe zeroes ranges of a file, each given by its start and end. Without ranges, it makes the whole
// file a hole.
func wipe(t *testing.T, path string, ranges ...int64) {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(ranges) == 0 {
		if err := errors.Join(os.Truncate(path, 0), os.Truncate(path, fi.Size())); err != nil {
			t.Fatal(err)
		}
		return
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := 0; i < len(ranges); i += 2 {
		if _, err := f.WriteAt(make([]byte, ranges[i+1]-ranges[i]), ranges[i]); err != nil {
			t.Fatal(err)
		}
	}
}

// isZero tells whether a file contains only zeros.
func isZero(t *testing.T, path string) bool {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA)
	return errors.Is(err, unix.ENXIO)
}

// TestWiped: a local volume whose image was wiped, completely or in part, replaced or shredded is
// refused as lost, and nothing is formatted.
func TestWiped(t *testing.T) {
	t.Setenv(envEngine, "1")
	r := newRig(t)
	r.start("all", 0)
	r.connect("all", "all")
	w := &workflow{r: r}
	up, down := w.up(), w.down()
	w.run(up)
	if err := writeDurably(filepath.Join(w.target(), "file"), bytes.Repeat([]byte("text"), 100_000)); err != nil {
		t.Fatal(err)
	}
	w.run(down[:2])
	image := r.path("local/images/" + w.id + ".img")
	backup, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	wipe(t, image, 0, 2<<20, size-1<<20, size) // everything that earlier versions checked
	before, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	wants(t, up[2](), codes.DataLoss, "holds unknown data", "Nothing was formatted", "create another one")
	if after, err := os.ReadFile(image); err != nil || !bytes.Equal(before, after) {
		t.Fatal("it was written to", err)
	}
	wipe(t, image)
	wants(t, up[2](), codes.DataLoss, "blank", "Nothing was formatted")
	// The driver extends a truncated image to its old size, with zeros.
	if err := os.Truncate(image, 0); err != nil {
		t.Fatal(err)
	}
	r.kill("all")
	r.start("all", 0)
	r.connect("all", "all")
	wants(t, up[2](), codes.DataLoss)
	if !isZero(t, image) {
		t.Fatal("it was formatted")
	}
	if err := os.Remove(image); err != nil {
		t.Fatal(err)
	}
	wants(t, up[2](), codes.DataLoss, "image file does not exist")
	if _, err := os.Stat(image); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("an image was made", err)
	}

	// The right image is restored.
	if err := os.WriteFile(image, backup, 0o600); err != nil {
		t.Fatal(err)
	}
	w.run(up[2:])
	w.run(down[:2])
	shred(t, image)
	wants(t, up[2](), codes.DataLoss, "shredded")
	wipe(t, image)
	wants(t, up[2](), codes.DataLoss)

	// A new volume with the same name is another volume.
	w.run(down[2:])
	w.run(up)
	w.run(down)
	r.wantClean()
}

func shred(t *testing.T, image string) {
	t.Helper()
	dev, err := device.Open(image, device.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = volume.Shred(dev)
	if err = errors.Join(err, dev.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestFormatCutOff: an interrupted format starts again if it is recorded that it was begun. Without
// that record, what it left is refused.
func TestFormatCutOff(t *testing.T) {
	t.Setenv(envEngine, "1")
	r := newRig(t)
	r.start("all", 0)
	r.connect("all", "all")
	w := &workflow{r: r}
	up := w.up()
	w.run(up[:2])
	image := r.path("local/images/" + w.id + ".img")
	halfFormat(t, image)
	wants(t, up[2](), codes.FailedPrecondition, "unknown data")
	kept := r.path("local/formats/" + w.id + ".json")
	if err := os.WriteFile(kept, []byte(`{"version":1,"id":"`+w.id+`","state":"formatting"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("precious"), size/2); err != nil {
		t.Fatal(err)
	}
	wants(t, up[2](), codes.FailedPrecondition)
	if _, err := f.WriteAt(make([]byte, 8), size/2); err != nil {
		t.Fatal(err)
	}
	w.run(up[2:])
	if b, err := os.ReadFile(kept); err != nil || !bytes.Contains(b, []byte(`"formatted"`)) {
		t.Fatalf("kept: %s, %v", b, err)
	}
	w.run(w.down())
	r.wantClean()
}

// halfFormat leaves an unfinished format in an image.
func halfFormat(t *testing.T, image string) {
	t.Helper()
	key, err := crypto.ParseKeyFile([]byte(strings.Repeat("a", 32)))
	if err != nil {
		t.Fatal(err)
	}
	cred := crypto.SecretCredential(key)
	defer cred.Erase()
	probe := device.NewMem(size)
	if err := volume.Format(probe, volume.FormatOptions{Recipient: cred}); err != nil {
		t.Fatal(err)
	}
	m := device.NewMem(size)
	m.CutAfter(probe.Writes() - 4) // the roots are written, the headers are not
	if err := volume.Format(m, volume.FormatOptions{Recipient: cred}); err == nil {
		t.Fatal("it was not cut off")
	}
	m = m.Crash(device.CrashKeepAll, nil)
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at := int64(0); ; {
		from, to, err := m.NextData(at)
		if errors.Is(err, io.EOF) {
			return
		}
		b := make([]byte, to-from)
		if _, err := m.ReadAt(b, from); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(b, from); err != nil {
			t.Fatal(err)
		}
		at = to
	}
}

// TestWipedEBS does the same with an EBS volume without a node agent. A tag records that the volume
// was formatted, also for a new driver and for an attachment that is older than the tag.
func TestWipedEBS(t *testing.T) {
	t.Setenv(envEngine, "1")
	r := newRig(t)
	s := newEC2(t, r.path("ec2"))
	r.backend = s.args
	r.start("all", 0)
	r.connect("all", "all")
	v := &ebsVolume{ctrl: r.ctrl, node: r.node, r: r, name: "pvc"}
	on, off := func() error { return v.attach(ebsNode) }, func() error { return v.detach(ebsNode) }
	all(t, v.create, on)

	// Nothing is formatted if that cannot be recorded.
	s.SetFault(func(c ec2test.Call) ec2test.Fault {
		if c.Action == "CreateTags" {
			return ec2test.Fault{Code: "UnauthorizedOperation", Status: 403, Message: "You are not authorized to perform this operation."}
		}
		return ec2test.Fault{}
	})
	data := filepath.Join(r.path("ec2/data"), v.id)
	wants(t, v.stage(), codes.Unavailable, "nothing was formatted", "not authorized")
	if !isZero(t, data) {
		t.Fatal("it was formatted")
	}
	s.SetFault(nil)
	all(t, v.stage, v.mount, func() error { return writeDurably(filepath.Join(v.target(), "file"), []byte("text")) }, v.unmount, v.unstage)
	if tags := s.Tags(v.id); tags["csi.sealvol.dev/formatted"] == "" || tags["csi.sealvol.dev/formatting"] == "" {
		t.Fatal(tags)
	}
	stale := v.publish
	all(t, off)
	b, err := os.ReadFile(data)
	if err != nil {
		t.Fatal(err)
	}
	for i, wiped := range [][]int64{{0, 2 << 20, gib - 1<<20, gib}, nil} {
		if err := os.WriteFile(data, b, 0o600); err != nil {
			t.Fatal(err)
		}
		wipe(t, data, wiped...)
		for _, fresh := range []bool{false, true} {
			if fresh {
				r.kill("all")
				r.start("all", 0)
				r.connect("all", "all")
				v.ctrl, v.node = r.ctrl, r.node
			}
			all(t, on)
			if i == 1 && fresh {
				v.publish = stale
			}
			wants(t, v.stage(), codes.DataLoss, "Nothing was formatted")
			all(t, off)
		}
		if i == 1 && !isZero(t, data) {
			t.Fatal("it was formatted")
		}
	}
	if err := os.WriteFile(data, b, 0o600); err != nil { // the right data is restored
		t.Fatal(err)
	}
	all(t, on, v.stage, v.mount, func() error { return sameFile(filepath.Join(v.target(), "file"), []byte("text")) }, v.unmount, v.unstage, off, v.remove)
}
