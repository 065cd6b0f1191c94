//go:build nvme

package nvme

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/test/nvme/vm"
)

// The files of the machine, which `make nvme` provides.
var (
	kernelDir = flag.String("nvme.kernel", "", "folder of an unpacked kernel package")
	driver    = flag.String("nvme.driver", "", "the driver, static")
	agent     = flag.String("nvme.agent", "", "test/nvme/agent, static")
)

// suiteTime limits the machine's life, whatever hangs in it.
const suiteTime = 15 * time.Minute

// Paths in the machine.
const (
	driverPath = "/bin/driver"
	csiSocket  = "/run/csi.sock"
	kubelet    = "/run/kubelet"
)

// model is the model name of QEMU's controllers, which cannot be changed.
const model = "QEMU NVMe Ctrl"

// The only machine of all tests, and what runs in it.
var (
	machine *vm.Machine
	node    csi.NodeClient
	daemons = map[string]int{} // pid by role
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "nvme:", err)
		return 1
	}
	if *kernelDir == "" || *driver == "" || *agent == "" {
		return fail(errors.New("run `make nvme`"))
	}
	ctx, cancel := context.WithTimeout(context.Background(), suiteTime)
	defer cancel()
	dir, err := os.MkdirTemp("", "nvme")
	if err != nil {
		return fail(err)
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			fail(err)
		}
	}()
	began := time.Now()
	// Give up a missing device after ten seconds, not after half a minute. Linux 6.1 detects an
	// attack when TCP on loopback has merged data that is adjacent in memory across the end of a
	// huge page (usercopy_abort below nvmet_tcp_io_work).
	machine, err = vm.Start(ctx, vm.Options{Kernel: *kernelDir, Modules: []string{"fuse", "nvmet_tcp", "nvme_tcp"}, Init: *agent, Files: map[string]string{driverPath: *driver},
		Args: "loglevel=6 hardened_usercopy=off nvme_core.io_timeout=10 nvme_core.admin_timeout=10", MemoryMiB: 768, Dir: dir})
	if err != nil {
		return fail(err)
	}
	defer machine.Close()
	fmt.Printf("nvme: the machine was up after %v\n", time.Since(began).Round(time.Millisecond))
	code := 1
	if err = startDriver(ctx); err == nil {
		code = m.Run()
		err = stillAlive(ctx)
	}
	if err == nil && bytes.Contains(machine.Console(), []byte("panic:")) {
		err = errors.New("a program has panicked")
	}
	if err != nil {
		code = fail(err)
	}
	if code != 0 {
		fmt.Fprintf(os.Stderr, "nvme: console of the machine:\n%s\n", machine.Console())
	}
	return code
}

// startDriver starts the mounter and the node service in separate processes.
func startDriver(ctx context.Context) error {
	if err := machine.Call(ctx, "Mkdir", kubelet, &vm.None{}); err != nil {
		return err
	}
	for role, args := range map[string][]string{
		"mounter": {"--mounter-dir", "/run/mounter", "--memory", fmt.Sprint(32 << 20)},
		"node": {"--mounter-dir", "/run/mounter", "--external-mounter", "--endpoint", "unix://" + csiSocket, "--kubelet-dir", kubelet,
			"--backend", "ebs", "--node-id", "i-0123456789abcdef0", "--zone", "nowhere-1a", "--aws-region", "nowhere-1",
			"--aws-ec2-endpoint", "http://127.0.0.1:1", "--aws-metadata-endpoint", "http://127.0.0.1:1", "--device-model", model, "--format-tags=false"},
	} {
		var pid int
		if err := machine.Call(ctx, "Start", vm.Program{Args: slices.Concat([]string{driverPath, role, "--log-format", "text"}, args)}, &pid); err != nil {
			return err
		}
		daemons[role] = pid
	}
	conn := machine.Conn(csiSocket)
	node = csi.NewNodeClient(conn)
	for { // also waits until the mounter answers
		r, err := csi.NewIdentityClient(conn).Probe(ctx, &csi.ProbeRequest{})
		if err != nil {
			return fmt.Errorf("the driver does not answer: %w", err)
		}
		if r.GetReady().GetValue() {
			return nil
		}
	}
}

// stillAlive checks that no test has ended the mounter or the node service.
func stillAlive(ctx context.Context) error {
	for role, pid := range daemons {
		var alive bool
		if err := machine.Call(ctx, "Alive", pid, &alive); err != nil {
			return err
		}
		if !alive {
			return fmt.Errorf("%s has ended", role)
		}
	}
	return nil
}

// call calls the agent, and fails the test on an error.
func call[R any](t *testing.T, method string, args any) R {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var r R
	if err := machine.Call(ctx, method, args, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// waitFor waits until a condition holds in the machine.
func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !is(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited two minutes for: %s", what)
		}
	}
}

const mib = 1 << 20

// disk is an EBS volume: a file here, and a device in the machine while it is plugged in.
type disk struct {
	t       *testing.T
	id      string // vol-…
	file    string
	size    int64
	plugged bool
}

// newDisk creates an empty disk with a unique id.
func newDisk(t *testing.T, id string) *disk {
	t.Helper()
	d := &disk{t: t, id: id, file: filepath.Join(t.TempDir(), "disk")}
	d.resize(256 * mib)
	t.Cleanup(func() {
		if d.plugged {
			if err := machine.Unplug(context.Background(), d.id); err != nil {
				t.Errorf("unplug %s at the end: %v", d.id, err)
			}
		}
	})
	return d
}

func serialOf(id string) string { return strings.ReplaceAll(id, "-", "") }

func (d *disk) resize(bytes int64) {
	d.t.Helper()
	f, err := os.OpenFile(d.file, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = errors.Join(f.Truncate(bytes), f.Close())
	}
	if err != nil {
		d.t.Fatal(err)
	}
	d.size = bytes
}

func (d *disk) plugAs(serial string) {
	d.t.Helper()
	if err := machine.Plug(d.t.Context(), d.id, serial, d.file); err != nil {
		d.t.Fatal(err)
	}
	d.plugged = true
}

func (d *disk) plug() { d.t.Helper(); d.plugAs(serialOf(d.id)) }

// unplug removes the disk, even if it is in use.
func (d *disk) unplug() {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Minute)
	defer cancel()
	if err := machine.Unplug(ctx, d.id); err != nil {
		d.t.Fatal(err)
	}
	d.plugged = false
}

// devices returns the names of the devices with the disk's serial number, as the kernel shows them.
func devices(t *testing.T, serial string) (names []string) {
	t.Helper()
	for _, path := range call[[]string](t, "Glob", "/sys/class/block/nvme*n*/device/serial") {
		if strings.Contains(filepath.Base(filepath.Dir(filepath.Dir(path))), "c") {
			continue // nvme0c0n1 is a path of nvme0n1
		}
		var b []byte
		if err := machine.Call(t.Context(), "ReadFile", path, &b); err == nil && strings.TrimSpace(string(b)) == serial {
			names = append(names, strings.Split(path, "/")[4])
		}
	}
	return names
}

// device waits for the device with the disk's serial number.
func (d *disk) device() (name string) {
	d.t.Helper()
	waitFor(d.t, "a device of "+d.id, func() bool {
		names := devices(d.t, serialOf(d.id))
		if len(names) == 1 {
			name = names[0]
		}
		return len(names) == 1
	})
	return name
}

func (d *disk) gone() {
	d.t.Helper()
	waitFor(d.t, "the end of the device of "+d.id, func() bool { return len(devices(d.t, serialOf(d.id))) == 0 })
}

// volume is a disk that is used through CSI calls.
type volume struct {
	*disk
	key     string
	context map[string]string
}

const someKey = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

func newVolume(t *testing.T, id string) *volume {
	t.Helper()
	v := &volume{disk: newDisk(t, id), key: someKey}
	t.Cleanup(func() { // before the disk is removed
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if err := errors.Join(v.unpublish(ctx), v.unstage(ctx)); err != nil {
			t.Errorf("clean up %s: %v", v.id, err)
		}
	})
	return v
}

func (v *volume) staging() string { return kubelet + "/staging-" + v.id }
func (v *volume) target() string  { return kubelet + "/pods/" + v.id }
func (v *volume) path(name string) string {
	return v.target() + "/" + name
}

func capability() *csi.VolumeCapability {
	return &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER}}
}

// attached is the publish context of the controller.
func (v *volume) attached() map[string]string {
	return map[string]string{"devicePath": "/dev/xvdaa", "sizeBytes": fmt.Sprint(v.size)}
}

func (v *volume) stage(ctx context.Context) error {
	if err := machine.Call(ctx, "Mkdir", v.staging(), &vm.None{}); err != nil {
		return err
	}
	_, err := node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging(), VolumeCapability: capability(), VolumeContext: v.context,
		PublishContext: v.attached(), Secrets: map[string]string{"kek": v.key}})
	return err
}

func (v *volume) publish(ctx context.Context) error {
	if err := machine.Call(ctx, "Mkdir", filepath.Dir(v.target()), &vm.None{}); err != nil {
		return err
	}
	_, err := node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging(), TargetPath: v.target(), VolumeCapability: capability(),
		VolumeContext: v.context, PublishContext: v.attached(), Secrets: map[string]string{"kek": v.key}})
	return err
}

func (v *volume) unpublish(ctx context.Context) error {
	_, err := node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: v.target()})
	return err
}

func (v *volume) unstage(ctx context.Context) error {
	_, err := node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging()})
	return err
}

// mount and unmount do what the kubelet does.
func (v *volume) mount() { v.t.Helper(); v.all(v.stage, v.publish) }

func (v *volume) unmount() { v.t.Helper(); v.all(v.unpublish, v.unstage) }

func (v *volume) all(calls ...func(context.Context) error) {
	v.t.Helper()
	for i, c := range calls {
		ctx, cancel := context.WithTimeout(v.t.Context(), 2*time.Minute)
		err := c(ctx)
		cancel()
		if err != nil {
			v.t.Fatalf("call %d of %s: %v", i, v.id, err)
		}
	}
}

func readAll(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
