package mountserver

import (
	"fmt"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// conditions returns the adverse conditions that the server knows, except that of a failed volume.
func (s *Server) conditions() []control.Condition {
	return append(deviceGone(s.opts.Device), s.damage.conditions()...)
}

// sized is a device that knows its size and whether it is a block device.
type sized interface {
	IsBlock() bool
	Size() (int64, error)
}

// deviceGone reports a block device that was removed: the kernel then gives it a size of 0 bytes
// (block/genhd.c, blk_mark_disk_dead). An idle volume would not notice.
func deviceGone(dev sized) []control.Condition {
	if n, err := dev.Size(); !dev.IsBlock() || err == nil && n > 0 {
		return nil
	}
	return []control.Condition{{Inaccessible: true, Reason: "DeviceGone",
		Message: "the volume's device was removed while it was mounted. All synced data is on the device. Attach it again, then mount the volume again (in a cluster: restart its pods)"}}
}

// damage is the damage that was found since the volume was mounted.
type damage struct {
	last atomic.Pointer[damagedAt]
}

type damagedAt struct {
	ino      vfs.Ino
	snapshot string // "" for the volume itself
}

// in returns the function that a server calls for each damaged inode of the volume or of a
// snapshot.
func (d *damage) in(snapshot string) func(vfs.Ino) {
	return func(ino vfs.Ino) { d.last.Store(&damagedAt{ino, snapshot}) }
}

func (d *damage) conditions() []control.Condition {
	at := d.last.Load()
	if at == nil {
		return nil
	}
	where := fmt.Sprintf("inode %d", at.ino)
	if at.snapshot != "" {
		where += " of snapshot " + at.snapshot
	}
	// No count: a message that changes all the time would cause an event each time.
	return []control.Condition{{Lost: true, Reason: "DamagedData",
		Message: fmt.Sprintf("some data of the volume is damaged, and reading it returns I/O errors; the last damage was in %s. All other data can be read. "+
			"`sealvol scrub` or `sealvol fsck` lists the damaged files: restore them from a backup", where)}}
}
