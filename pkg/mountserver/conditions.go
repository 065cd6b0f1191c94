package mountserver

import (
	"fmt"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// conditions are the adverse ones that the server knows of, besides a volume that failed.
func (s *Server) conditions() []control.Condition {
	return append(deviceGone(s.opts.Device), s.damage.conditions()...)
}

// sized is a device that knows whether it is a block device.
type sized interface {
	IsBlock() bool
	Size() (int64, error)
}

// deviceGone reports a block device that was removed: the kernel says that it has no bytes any more
// (block/genhd.c, blk_mark_disk_dead). An idle volume would not notice.
func deviceGone(dev sized) []control.Condition {
	if n, err := dev.Size(); !dev.IsBlock() || err == nil && n > 0 {
		return nil
	}
	return []control.Condition{{Inaccessible: true, Reason: "DeviceGone",
		Message: "the volume's device was removed while it was mounted. All synced data is on it: attach it again, then mount the volume again (in a cluster: restart its pods)"}}
}

// damage is what was found of it since the volume was mounted.
type damage struct {
	last atomic.Pointer[damagedAt]
}

type damagedAt struct {
	ino      vfs.Ino
	snapshot string // "": the volume itself
}

// in returns what a server calls for each damaged inode of the volume or one of its snapshots.
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
	// Not how often: a text that changes all the time is no news.
	return []control.Condition{{Lost: true, Reason: "DamagedData",
		Message: fmt.Sprintf("some data of the volume is damaged, and reading it gives I/O errors; the last was %s. All other data can be read. "+
			"`sealvol scrub` or `sealvol fsck` names the damaged files: restore them from a backup", where)}}
}
