package ebs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

const (
	volX = "vol-0123456789abcdef0"
	volY = "vol-0123456789abcdef1"
)

// kernel simulates /sys and /dev.
type kernel struct {
	t   *testing.T
	dir string
}

func newKernel(t *testing.T) kernel {
	k := kernel{t, t.TempDir()}
	for _, d := range []string{"sys/class/block", "dev/disk/by-id"} {
		k.do(os.MkdirAll(filepath.Join(k.dir, d), 0o755))
	}
	return k
}

func (k kernel) do(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

func (k kernel) sys(name, attr, value string) {
	k.t.Helper()
	path := filepath.Join(k.dir, "sys/class/block", name, attr)
	k.do(os.MkdirAll(filepath.Dir(path), 0o755))
	draft := filepath.Join(k.dir, "draft") // an attribute is never visible half-written
	k.do(os.WriteFile(draft, []byte(value+"\n"), 0o644))
	k.do(os.Rename(draft, path))
}

// node creates a device node, which no program opens.
func (k kernel) node(path string, minor int) {
	k.t.Helper()
	k.do(unix.Mknod(filepath.Join(k.dir, "dev", path), unix.S_IFBLK|0o600, int(unix.Mkdev(259, uint32(minor)))))
}

// nvme creates what the kernel shows for an attached volume.
func (k kernel) nvme(name, id string, minor int, sizeGiB int64) {
	k.t.Helper()
	k.sys(name, "device/model", ebsModel+"              ")
	k.sys(name, "size", fmt.Sprint(sizeGiB<<30/512))
	k.sys(name, "dev", fmt.Sprint("259:", minor))
	k.sys(name, "device/serial", serialOf(id))
	k.node(name, minor)
}

func (k kernel) link(name, to string) {
	k.t.Helper()
	k.do(os.Symlink(filepath.Join(k.dir, "dev", to), filepath.Join(k.dir, "dev", name)))
}

func (k kernel) open(t *testing.T) *Backend {
	o := Options{Region: "nowhere-1", Sys: filepath.Join(k.dir, "sys"), Dev: filepath.Join(k.dir, "dev"), Timing: quick}
	o.Timing.DeviceAppear = 50 * time.Millisecond
	return open(t, o)
}

// TestDevice finds a device by its serial number, and none if anything is inconsistent.
func TestDevice(t *testing.T) {
	const byID = "disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0"
	for name, c := range map[string]struct {
		change func(k kernel)
		err    error
	}{
		"as it is":               {func(kernel) {}, nil},
		"links of udev":          {func(k kernel) { k.link(byID, "nvme1n1"); k.link(byID+"-ns-1", "nvme1n1"); k.link("xvdaa", "nvme1n1") }, nil},
		"larger":                 {func(k kernel) { k.sys("nvme1n1", "size", "999999999") }, nil},
		"a partition on it":      {func(k kernel) { k.nvme("nvme1n1p1", volX, 20, 1); k.sys("nvme1n1p1", "partition", "1") }, nil},
		"a path of it":           {func(k kernel) { k.nvme("nvme1c1n1", volX, 20, 10); k.sys("nvme1c1n1", "hidden", "1") }, nil},
		"devices without serial": {func(k kernel) { k.sys("loop0", "size", "8") }, nil},

		"nobody":                  {func(k kernel) { k.do(os.RemoveAll(filepath.Join(k.dir, "sys/class/block/nvme1n1"))) }, backend.ErrNotAttached},
		"no node":                 {func(k kernel) { k.do(os.Remove(filepath.Join(k.dir, "dev/nvme1n1"))) }, backend.ErrNotAttached},
		"no size yet":             {func(k kernel) { k.sys("nvme1n1", "size", "0") }, backend.ErrNotAttached},
		"another's serial":        {func(k kernel) { k.sys("nvme1n1", "device/serial", serialOf(volY)) }, backend.ErrNotAttached},
		"a serial that begins so": {func(k kernel) { k.sys("nvme1n1", "device/serial", serialOf(volX)+"0") }, backend.ErrNotAttached},
		"two of one serial":       {func(k kernel) { k.nvme("nvme7n1", volX, 30, 10) }, backend.ErrDamaged},
		"too small":               {func(k kernel) { k.sys("nvme1n1", "size", fmt.Sprint(9<<30/512)) }, backend.ErrDamaged},
		"size is nonsense":        {func(k kernel) { k.sys("nvme1n1", "size", "many") }, backend.ErrDamaged},
		"not of EBS":              {func(k kernel) { k.sys("nvme1n1", "device/model", "Cheap Disk") }, backend.ErrDamaged},
		"node of another device":  {func(k kernel) { k.do(os.Remove(filepath.Join(k.dir, "dev/nvme1n1"))); k.node("nvme1n1", 99) }, backend.ErrDamaged},
		"a file instead of it": {func(k kernel) {
			k.do(os.Remove(filepath.Join(k.dir, "dev/nvme1n1")))
			k.do(os.WriteFile(filepath.Join(k.dir, "dev/nvme1n1"), nil, 0o600))
		}, backend.ErrDamaged},
		"a link instead of it":     {func(k kernel) { k.do(os.Remove(filepath.Join(k.dir, "dev/nvme1n1"))); k.link("nvme1n1", "nvme2n1") }, backend.ErrDamaged},
		"by-id leads elsewhere":    {func(k kernel) { k.link(byID, "nvme2n1") }, backend.ErrDamaged},
		"-ns-1 leads elsewhere":    {func(k kernel) { k.link(byID+"-ns-1", "nvme2n1") }, backend.ErrDamaged},
		"the name leads elsewhere": {func(k kernel) { k.link("xvdaa", "nvme2n1") }, backend.ErrDamaged},
		"the name is another":      {func(k kernel) { k.node("xvdaa", 77) }, backend.ErrDamaged},
		"by-id leads to nothing":   {func(k kernel) { k.link(byID, "nvme8n1") }, nil}, // udev is late
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t)
			k.nvme("nvme0n1", "vol-0aaaaaaaaaaaaaaaa", 1, 8)
			k.nvme("nvme1n1", volX, 2, 10)
			k.nvme("nvme2n1", volY, 3, 10)
			c.change(k)
			d, err := k.open(t).Device(t.Context(), volX, map[string]string{attachedPath: "/dev/xvdaa", attachedSize: fmt.Sprint(10 << 30), attachedRO: "true"})
			wantErr(t, err, c.err)
			if err == nil && (d.Path != filepath.Join(k.dir, "dev/nvme1n1") || d.Rdev != unix.Mkdev(259, 2) || d.SizeBytes < 10<<30 || !d.ReadOnly) {
				t.Fatalf("%+v", d)
			}
		})
	}
	k := newKernel(t)
	_, err := k.open(t).Device(t.Context(), volX, map[string]string{attachedSize: "-3"})
	wantErr(t, err, backend.ErrInvalid)
	_, err = k.open(t).Device(t.Context(), "vol-../../x", nil)
	wantErr(t, err, backend.ErrNotFound)
}

// TestDeviceAppears waits for what the kernel and udev create after the attachment, in any order.
func TestDeviceAppears(t *testing.T) {
	k := newKernel(t)
	o := Options{Region: "nowhere-1", Sys: filepath.Join(k.dir, "sys"), Dev: filepath.Join(k.dir, "dev"), Timing: quick}
	b := open(t, o)
	done := make(chan error)
	go func() {
		_, err := b.Device(t.Context(), volX, map[string]string{attachedPath: "/dev/xvdaa"})
		done <- err
	}()
	k.sys("nvme1n1", "device/model", ebsModel)
	k.sys("nvme1n1", "size", "0")
	k.sys("nvme1n1", "dev", "259:2")
	k.sys("nvme1n1", "device/serial", serialOf(volX))
	k.node("nvme1n1", 2)
	k.sys("nvme1n1", "size", "4096")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestNamesSwap: if the kernel swaps the names of two devices, the serial number decides.
func TestNamesSwap(t *testing.T) {
	s := newEC2(t, ec2test.Options{}, true)
	b := open(t, options(s))
	v, w := mustCreate(t, b, spec("a")), mustCreate(t, b, spec("b"))
	attach := func(id string) backend.Device {
		return must(b.Device(t.Context(), id, must(b.Attach(t.Context(), id, nodeA, false))))
	}
	first := [2]backend.Device{attach(v.ID), attach(w.ID)}
	for _, id := range []string{v.ID, w.ID} {
		if err := b.Detach(t.Context(), id, nodeA); err != nil {
			t.Fatal(err)
		}
		_, err := b.Device(t.Context(), id, nil)
		wantErr(t, err, backend.ErrNotAttached)
	}
	second := [2]backend.Device{}
	second[1], second[0] = attach(w.ID), attach(v.ID)
	if first[0].Path == first[1].Path || second[0].Path == second[1].Path {
		t.Fatal("one path for two", first, second)
	}
}

// TestDeviceDeadline: a caller with a short deadline also learns what is missing.
func TestDeviceDeadline(t *testing.T) {
	k := newKernel(t)
	b := open(t, Options{Region: "nowhere-1", Sys: filepath.Join(k.dir, "sys"), Dev: filepath.Join(k.dir, "dev")})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := b.Device(ctx, volX, map[string]string{attachedPath: "/dev/xvdaa"})
	wantErr(t, err, backend.ErrNotAttached)
}
