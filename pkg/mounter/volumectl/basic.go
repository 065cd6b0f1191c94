package volumectl

import (
	"context"
	"errors"
	"os"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Served is an open volume of any format.
type Served interface {
	vfs.FS
	// Failed returns the error that made the volume read-only, or nil.
	Failed() error
}

// Basic answers the requests that every mount has, whatever the format of its volume. It is a
// control.Handler.
type Basic struct {
	FS       Served
	Name     string // the name by which callers know the volume
	ReadOnly bool
	// Conditions returns adverse conditions other than a failed volume; nil if there are none.
	Conditions func() []control.Condition
	// GrowBy grows the volume to the size of its device and returns the volume's size in bytes.
	GrowBy func() (int64, error)
	// End makes everything durable and ends serving; see control.Handler.
	End func(ctx context.Context) error
}

// Status implements control.Handler.
func (b *Basic) Status(context.Context) (control.Status, error) {
	st := control.Status{Volume: b.Name, PID: os.Getpid(), ReadOnly: b.ReadOnly}
	if err := b.FS.Failed(); err != nil {
		st.ReadOnly = true
		st.Conditions = []control.Condition{{Reason: "VolumeFailed", Message: "the volume is read-only after an I/O error of its device: " + err.Error() +
			". Data that was synced before is safe. Repair the device, then mount the volume again (in a cluster: restart its pods)"}}
	}
	if b.Conditions != nil {
		st.Conditions = append(st.Conditions, b.Conditions()...)
	}
	return st, nil
}

// Stats implements control.Handler.
func (b *Basic) Stats(context.Context) (control.Stats, error) {
	f := b.FS.StatFS()
	size := int64(f.BlockSize)
	return control.Stats{
		TotalBytes: int64(f.Blocks) * size, UsedBytes: int64(f.Blocks-min(f.BlocksFree, f.Blocks)) * size, AvailableBytes: int64(f.BlocksAvail) * size,
		TotalInodes: int64(f.Inodes), UsedInodes: int64(f.Inodes - min(f.InodesFree, f.Inodes)), FreeInodes: int64(f.InodesFree),
	}, nil
}

// Sync implements control.Handler.
func (b *Basic) Sync(context.Context) error {
	if b.ReadOnly {
		return nil
	}
	return b.FS.Sync(vfs.RootIno)
}

// Grow implements control.Handler.
func (b *Basic) Grow(context.Context) (int64, error) {
	if b.ReadOnly {
		return 0, errors.New("cannot grow: the volume is mounted read-only")
	}
	return b.GrowBy()
}

// Unmount implements control.Handler.
func (b *Basic) Unmount(ctx context.Context) error { return b.End(ctx) }
