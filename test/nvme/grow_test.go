//go:build nvme

package nvme

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/test/nvme/vm"
)

// nvmet is the kernel's own NVMe target. QEMU's devices never change their size. Those of the
// target do, and report it with an asynchronous event (Namespace Attribute Changed), like EBS.
const nvmet = "/sys/kernel/config/nvmet"

// serve exports a file in the machine as an NVMe device with a volume's serial number, over TCP on
// loopback.
func (v *volume) serve(file string) {
	v.t.Helper()
	nqn := "nqn.2014-08.dev.sealvol:" + v.id
	subsystem, port := nvmet+"/subsystems/"+nqn, nvmet+"/ports/1"
	set := func(path, value string) {
		v.t.Helper()
		call[vm.None](v.t, "Write", vm.File{Path: path, Data: []byte(value)})
	}
	call[vm.None](v.t, "Truncate", vm.Range{Path: file, Length: v.size})
	call[vm.None](v.t, "Mkdir", subsystem+"/namespaces/1")
	set(subsystem+"/attr_allow_any_host", "1")
	set(subsystem+"/attr_serial", serialOf(v.id))
	set(subsystem+"/attr_model", model)
	set(subsystem+"/namespaces/1/device_path", file)
	set(subsystem+"/namespaces/1/buffered_io", "1") // a tmpfs does not support direct I/O
	set(subsystem+"/namespaces/1/enable", "1")
	call[vm.None](v.t, "Mkdir", port)
	set(port+"/addr_trtype", "tcp")
	set(port+"/addr_adrfam", "ipv4")
	set(port+"/addr_traddr", "127.0.0.1")
	set(port+"/addr_trsvcid", "4420")
	call[vm.None](v.t, "Symlink", vm.Link{Path: port + "/subsystems/" + nqn, To: subsystem})
	set("/dev/nvme-fabrics", "transport=tcp,traddr=127.0.0.1,trsvcid=4420,nqn="+nqn)
	v.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err := disconnect(ctx, nqn)
		for _, path := range []string{port + "/subsystems/" + nqn, port, subsystem + "/namespaces/1", subsystem, file} {
			err = errors.Join(err, machine.Call(ctx, "Remove", path, &vm.None{}))
		}
		if err != nil {
			v.t.Error(err)
		}
	})
}

// disconnect removes a device of the target, and returns when it is gone.
func disconnect(ctx context.Context, nqn string) error {
	var list []string
	if err := machine.Call(ctx, "Glob", "/sys/class/nvme/nvme*/subsysnqn", &list); err != nil {
		return err
	}
	for _, path := range list {
		var got []byte
		if err := machine.Call(ctx, "ReadFile", path, &got); err != nil {
			return err
		}
		if strings.TrimSpace(string(got)) != nqn {
			continue
		}
		if err := machine.Call(ctx, "Write", vm.File{Path: filepath.Dir(path) + "/delete_controller", Data: []byte("1")}, &vm.None{}); err != nil {
			return err
		}
	}
	return nil
}

// TestGrowMounted grows a device while its volume is written to.
func TestGrowMounted(t *testing.T) {
	const file = "/tmp/disk"
	v := newVolume(t, "vol-0123456789abcdef7")
	v.serve(file)
	v.mount()
	v.write("file", noise("grow", mib))
	before := call[vm.Size](t, "Statfs", v.target())
	call[vm.None](t, "StartWriter", v.path("records"))
	waitFor(t, "records", func() bool { return v.written().Records >= 5 })

	v.size *= 2
	call[vm.None](t, "Truncate", vm.Range{Path: file, Length: v.size})
	for _, ns := range call[[]string](t, "Glob", nvmet+"/subsystems/*/namespaces/1/revalidate_size") {
		call[vm.None](t, "Write", vm.File{Path: ns, Data: []byte("1")})
	}
	name := v.device()
	waitFor(t, "the larger device", func() bool {
		var sectors []byte
		err := machine.Call(t.Context(), "ReadFile", "/sys/class/block/"+name+"/size", &sectors)
		return err == nil && strings.TrimSpace(string(sectors)) == "1048576"
	})
	v.all(func(ctx context.Context) error {
		_, err := node.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{VolumeId: v.id, VolumePath: v.target(), CapacityRange: &csi.CapacityRange{RequiredBytes: v.size}})
		return err
	})
	if after := call[vm.Size](t, "Statfs", v.target()); after.Total < before.Total*19/10 {
		t.Fatal("the file system did not grow with its device: ", before, after)
	}
	seen := v.written().Records
	waitFor(t, "more records", func() bool { return v.written().Records > seen+5 })
	call[vm.None](t, "StopWriter", v.path("records"))
	waitFor(t, "the writer's end", func() bool { return v.written().Err != "" })
	w := v.written()
	if w.Err != "stopped" {
		t.Fatal(w.Err)
	}
	v.unmount()
	v.mount()
	v.expect("file", noise("grow", mib))
	v.expectRecords(w.Records)
	v.unmount() // before the device is removed
}
