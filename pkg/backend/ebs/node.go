package ebs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/backend"
)

// Info implements backend.Node.
func (b *Backend) Info(ctx context.Context) (backend.NodeInfo, error) {
	i, err := b.meta.identity(ctx)
	if err != nil && b.opt.Instance != "" && b.opt.Zone != "" {
		i, err = identity{}, nil
	}
	if err != nil {
		return backend.NodeInfo{}, fmt.Errorf("%w: %w", backend.ErrUnavailable, err)
	}
	if b.opt.Instance != "" && b.opt.Instance != i.instance {
		i = identity{instance: b.opt.Instance, zone: b.opt.Zone}
	}
	if i.zone == "" {
		return backend.NodeInfo{}, fmt.Errorf("%w: the zone of %s is unknown; set --zone", backend.ErrUnavailable, i.instance)
	}
	return backend.NodeInfo{ID: i.instance, Topology: segmentsOf(i.zone), MaxVolumes: b.maxVolumes(ctx, i)}, nil
}

// maxVolumes returns how many volumes of the driver this node can have. It uses defaults for what
// neither EC2 nor the metadata service says.
func (b *Backend) maxVolumes(ctx context.Context, i identity) int64 {
	if b.opt.MaxVolumes > 0 {
		return b.opt.MaxVolumes
	}
	m := usual(b.localDisks())
	if i.kind != "" {
		if known, err := b.machineOf(ctx, i.kind); err == nil {
			m = known
		}
	}
	interfaces, others := int64(1), int64(1) // the root volume
	if n, o, err := b.attachedTo(ctx, i.instance); err == nil {
		interfaces, others = n, o
	} else if i.imds {
		if n, err := b.meta.interfaces(ctx); err == nil {
			interfaces = n
		}
	}
	if b.opt.ReservedVolumes > 0 {
		others = b.opt.ReservedVolumes
	}
	return m.room(interfaces, others)
}

// localModel is the model name of the local disks of instances.
const localModel = "Amazon EC2 NVMe Instance Storage"

// localDisks counts the local disks that the kernel shows.
func (b *Backend) localDisks() (n int64) {
	dir := filepath.Join(b.opt.Sys, "class/block")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	for _, e := range entries {
		if model, err := sysString(filepath.Join(dir, e.Name(), "device/model")); err == nil && model == localModel && !isHidden(filepath.Join(dir, e.Name())) {
			n++
		}
	}
	return n
}

// attachedTo counts the network interfaces of an instance, and its volumes that do not belong to
// the driver.
func (b *Backend) attachedTo(ctx context.Context, id string) (interfaces, others int64, err error) {
	i, err := b.instance(ctx, id)
	if err != nil {
		return 0, 0, err
	}
	ours := int64(0)
	in := &ec2.DescribeVolumesInput{Filters: []types.Filter{filter("attachment.instance-id", id), filter("tag-key", tagCluster)}}
	if err := b.eachVolume(ctx, in, func(types.Volume) { ours++ }); err != nil {
		return 0, 0, err
	}
	return int64(len(i.NetworkInterfaces)), max(int64(len(i.BlockDeviceMappings))-ours, 0), nil
}

// Device implements backend.Node. It asks the kernel, not EC2, for the device whose NVMe serial is
// the volume's id.
func (b *Backend) Device(ctx context.Context, id string, attached map[string]string) (backend.Device, error) {
	if !volumeID.MatchString(id) {
		return backend.Device{}, fmt.Errorf("%w: not an EBS volume id", backend.ErrNotFound)
	}
	least := int64(1)
	if s := attached[attachedSize]; s != "" {
		var err error
		if least, err = strconv.ParseInt(s, 10, 64); err != nil || least <= 0 {
			return backend.Device{}, fmt.Errorf("%w: malformed %s in the publish context", backend.ErrInvalid, attachedSize)
		}
	}
	wait := b.opt.Timing.DeviceAppear
	if end, ok := ctx.Deadline(); ok { // return an error that says what is missing before the caller gives up
		wait = min(wait, time.Until(end)*3/4)
	}
	if attached == nil {
		wait = 0 // the caller only wants to know the present state
	}
	d, err := b.waitForDevice(ctx, id, least, wait)
	if err != nil {
		return backend.Device{}, err
	}
	if err := b.checkLinks(id, attached[attachedPath], d.Rdev); err != nil {
		return backend.Device{}, err
	}
	d.ReadOnly = attached[attachedRO] == "true"
	if attached[attachedMade] == "true" {
		b.formats.set(id, backend.FormatDone)
	}
	return d, nil
}

// errNoDevice: no device has the serial, or it does not have its full size yet.
var errNoDevice = errors.New("no device has the volume's serial number")

// waitForDevice looks for the device after each event in /dev, and also regularly.
func (b *Backend) waitForDevice(ctx context.Context, id string, least int64, wait time.Duration) (backend.Device, error) {
	d, err := b.findDevice(id, least)
	if !errors.Is(err, errNoDevice) || wait <= 0 {
		return d, notAttached(err)
	}
	w := watchDir(b.opt.Dev)
	defer w.close()
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	tick := time.NewTicker(deviceTick)
	defer tick.Stop()
	for {
		if d, err = b.findDevice(id, least); !errors.Is(err, errNoDevice) {
			return d, err
		}
		select {
		case <-w.events:
		case <-tick.C:
		case <-deadline.C:
			return d, notAttached(err)
		case <-ctx.Done():
			return d, fmt.Errorf("%w: %w", notAttached(err), ctx.Err())
		}
	}
}

func notAttached(err error) error {
	if errors.Is(err, errNoDevice) {
		return fmt.Errorf("%w: %w", backend.ErrNotAttached, err)
	}
	return err
}

// deviceTick is for changes without an event, such as a device that gets its size late.
const deviceTick = 200 * time.Millisecond

// serialOf returns the NVMe serial of a volume.
func serialOf(id string) string { return strings.ReplaceAll(id, "-", "") }

// findDevice searches all block devices. If a device with the serial has unexpected properties, it
// returns an error and does not search further.
func (b *Backend) findDevice(id string, least int64) (backend.Device, error) {
	dir := filepath.Join(b.opt.Sys, "class/block")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return backend.Device{}, fmt.Errorf("list block devices: %w", err)
	}
	var found []string
	for _, e := range entries {
		if serial, err := sysString(filepath.Join(dir, e.Name(), "device/serial")); err == nil && serial == serialOf(id) && !isHidden(filepath.Join(dir, e.Name())) {
			found = append(found, e.Name())
		}
	}
	switch len(found) {
	case 0:
		return backend.Device{}, errNoDevice
	case 1:
		return b.checkDevice(filepath.Join(dir, found[0]), id, least)
	}
	return backend.Device{}, fmt.Errorf("%w: the devices %s all have the serial number of %s", backend.ErrDamaged, strings.Join(found, ", "), id)
}

// isHidden tells whether a device is a partition or a path of a multipath device.
func isHidden(dir string) bool {
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		return true
	}
	h, err := sysString(filepath.Join(dir, "hidden"))
	return err == nil && h == "1"
}

// ebsModel is the model name of EBS controllers.
const ebsModel = "Amazon Elastic Block Store"

// checkDevice compares sysfs and /dev.
func (b *Backend) checkDevice(sys, id string, least int64) (backend.Device, error) {
	name := filepath.Base(sys)
	bad := func(what string) (backend.Device, error) {
		return backend.Device{}, fmt.Errorf("%w: %s, which has the serial number of %s, %s", backend.ErrDamaged, name, id, what)
	}
	if model, err := sysString(filepath.Join(sys, "device/model")); err != nil || model != b.opt.Model {
		return bad("is not an EBS device: its model is different")
	}
	text, err := sysString(filepath.Join(sys, "size"))
	if err != nil {
		return backend.Device{}, errNoDevice // it is just disappearing
	}
	sectors, err := strconv.ParseInt(text, 10, 64)
	if err != nil || sectors < 0 {
		return bad("has no size")
	}
	if sectors == 0 {
		return backend.Device{}, errNoDevice // it is not ready yet
	}
	if sectors*512 < least {
		return bad(fmt.Sprintf("has %d bytes, want %d", sectors*512, least))
	}
	dev, err := sysString(filepath.Join(sys, "dev"))
	if err != nil {
		return backend.Device{}, errNoDevice
	}
	path := filepath.Join(b.opt.Dev, name)
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); errors.Is(err, unix.ENOENT) {
		return backend.Device{}, errNoDevice // udev or devtmpfs is about to create it
	} else if err != nil {
		return backend.Device{}, fmt.Errorf("%s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)) != dev {
		return bad("has another device number in " + b.opt.Dev)
	}
	if serial, err := sysString(filepath.Join(sys, "device/serial")); err != nil || serial != serialOf(id) {
		return backend.Device{}, errNoDevice // it changed while it was inspected
	}
	return backend.Device{Path: path, SizeBytes: sectors * 512, Rdev: st.Rdev}, nil
}

// checkLinks refuses the volume if a link of udev leads to another device: then either udev or the
// driver is wrong.
func (b *Backend) checkLinks(id, devicePath string, rdev uint64) error {
	byID := filepath.Join(b.opt.Links, "disk/by-id", "nvme-Amazon_Elastic_Block_Store_"+serialOf(id))
	links := []string{byID, byID + "-ns-1", byID + "_1"}
	if base := filepath.Base(devicePath); devicePath == "/dev/"+base {
		links = append(links, filepath.Join(b.opt.Links, base))
	}
	for _, l := range links {
		var st unix.Stat_t
		if err := unix.Stat(l, &st); errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue // includes a dangling link: udev is late
		} else if err != nil {
			return fmt.Errorf("%s: %w", l, err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFBLK || st.Rdev != rdev {
			return fmt.Errorf("%w: the link %s leads to another device than the one with the serial number of %s", backend.ErrDamaged, l, id)
		}
	}
	return nil
}

// sysString reads an attribute and trims its padding.
func sysString(path string) (string, error) {
	raw, err := os.ReadFile(path)
	return strings.TrimSpace(string(raw)), err
}
