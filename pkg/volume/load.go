package volume

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/header"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/logical/whole"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// MaxPosition is the longest position of Commit, in bytes.
const MaxPosition = layout.MaxPosition

// loadRing is the size of a loader's ring in bytes. Loading records no operations.
const loadRing = 64 << 10

// LoadOptions configures a Loader.
type LoadOptions struct {
	Credential crypto.Credential // opens the volume; for NewLoader, the credential of Recipient
	Memory     int               // bytes; DefaultMemory if 0
	Log        *slog.Logger      // for messages to the operator; nil: none

	// What the snapshot says of its volume. ResumeLoader refuses a volume with another HashSeed or
	// NextIno, unless both are zero.
	HashSeed [16]byte // of names; the subs of names and attributes depend on it
	NextIno  uint64   // all inodes are below

	// What will come, if known. A device that is too small for it is refused at once (ErrNoSpace).
	ContentBytes uint64 // of data, without holes
	Inodes       uint64
}

// Loader builds a volume from the facts of a snapshot (package logical): its restore. From the
// first write until Finish has succeeded, the volume is marked as incomplete. Everybody else
// refuses it with ErrRestoring.
//
// Inode, Inline, Xattr and Name take facts in the order of their keys, one call at a time. WriteAt
// may run concurrently with itself and with them. After an error of a fact, only Close is left to
// do, and ResumeLoader. Facts come from a store: whatever they are, the
// result is an error that wraps logical.ErrInvalid, or a volume in order.
//
// Changes reach the device as memory fills, but only Commit defines a point to resume from.
type Loader struct {
	v *Volume

	mu      sync.Mutex // one fact at a time
	last    logical.Key
	cur     *loadInode
	broken  error         // of a fact
	ended   bool          // finished or closed
	pending atomic.Uint64 // the inode of cur while its last facts are not in the tree, otherwise 0
}

// NewLoader formats a device, as Format does, and begins to load a volume. The root directory comes
// with the facts: RootMode, RootUID and RootGID have no effect. An interrupted NewLoader leaves
// what an interrupted Format leaves.
func NewLoader(dev device.Device, f FormatOptions, o LoadOptions) (*Loader, error) {
	if o.NextIno <= uint64(vfs.RootIno) || o.NextIno > whole.MaxIno {
		return nil, invalidFact("the next inode number is %d", o.NextIno)
	}
	size, err := dev.Size()
	if err != nil {
		return nil, err
	}
	if f.SizeBytes != 0 {
		size = min(size, f.SizeBytes)
	}
	if need := loadNeeds(&o, size); o.ContentBytes+o.Inodes > 0 && need > size {
		return nil, fmt.Errorf("%w: the device has %d MiB, the restore needs about %d MiB", vfs.ErrNoSpace, size>>20, (need+1<<20-1)>>20)
	}
	f.load = &o
	if err := Format(dev, f); err != nil {
		return nil, err
	}
	l, _, err := ResumeLoader(dev, o)
	return l, err
}

// loadNeeds estimates the size of a device that the expected content fits, reserve and metadata
// included. It is rather too low: a load that does not fit ends with ErrNoSpace.
func loadNeeds(o *LoadOptions, size int64) int64 {
	const most = 1 << 60
	data, inodes := min(o.ContentBytes, most), min(o.Inodes, most>>9)
	meta := data/256 + inodes*192 // tags; inodes, names, small files
	fixed := uint64(layout.LogOff+layout.LogBytes(size)) + uint64(reserveSlots(size))*layout.NodeBytes
	return int64(data + meta + fixed)
}

// ResumeLoader continues an interrupted load. It returns the position of the last Commit, nil if
// there was none. The caller repeats the facts and the content that followed: what was loaded since
// then may or may not be there. It returns ErrNotRestoring if the volume is complete or was never
// restored.
func ResumeLoader(dev device.Device, o LoadOptions) (l *Loader, position []byte, err error) {
	u, keys, err := header.UnlockAny(dev, o.Credential, nil)
	if err != nil {
		return nil, nil, err
	}
	var v *Volume
	if u.Restoring() {
		v, err = open(dev, Options{Credential: o.Credential, Memory: o.Memory, Log: o.Log, CommitInterval: -1, load: true}, u, keys)
	} else {
		err = ErrNotRestoring
	}
	if err != nil {
		keys.Erase()
		crypto.EraseEpochs(u.Epochs)
		return nil, nil, txn.Wrap(err)
	}
	l = &Loader{v: v}
	if position, err = l.resume(&o); err != nil {
		return nil, nil, errors.Join(err, l.Close())
	}
	return l, position, nil
}

// resume reads the position, and checks that the volume is that of the same snapshot.
func (l *Loader) resume(o *LoadOptions) (position []byte, err error) {
	v := l.v
	root := v.durable.root
	if (o.HashSeed != [16]byte{} || o.NextIno != 0) && (root.HashSeed != o.HashSeed || root.NextIno != o.NextIno) {
		return nil, invalidFact("the volume holds an unfinished restore of another snapshot")
	}
	position, found, err := v.readPosition()
	if err == nil && !found {
		err = fmt.Errorf("%w: the header says that the volume is being restored, but it is complete: an old header was put back", ErrForged)
	}
	return position, err
}

// invalidFact is an error about facts that no volume contains.
func invalidFact(format string, args ...any) error {
	return fmt.Errorf("%w: %s", logical.ErrInvalid, fmt.Sprintf(format, args...))
}

// usable returns an error if the load has ended.
func (l *Loader) usable() error {
	if l.ended {
		return vfs.ErrClosed
	}
	return errors.Join(l.broken, l.v.writable())
}

// explain adds to ErrNoSpace how large the volume is.
func (l *Loader) explain(err error) error {
	if err == nil || !errors.Is(err, vfs.ErrNoSpace) {
		return txn.Wrap(err)
	}
	s := l.v.StatFS()
	return fmt.Errorf("%w: the volume has %d bytes, of which %d are available: the content does not fit; restore it to a larger device",
		err, s.Blocks*layout.BlockBytes, s.BlocksAvail*layout.BlockBytes)
}

// ID is the UUID of the volume.
func (l *Loader) ID() crypto.UUID { return l.v.ID() }

// Grow makes the volume as large as its device.
func (l *Loader) Grow() (sizeBytes int64, err error) { return l.v.Grow() }

// Commit makes durable what all calls before it loaded, together with a position of at most
// MaxPosition bytes, which only the caller understands.
func (l *Loader) Commit(position []byte) error {
	if len(position) > MaxPosition {
		return fmt.Errorf("position of %d bytes: %w", len(position), vfs.ErrInvalid)
	}
	l.mu.Lock()
	err := l.usable()
	if err == nil {
		err = l.settle()
	}
	if err == nil {
		c := reservation{nodes: opNodes + layout.MaxPosition/layout.NodeBytes*2, urgent: true}
		err = l.v.operate(c, func(*locks) error {
			return l.v.inGate(func() error { return l.v.storePosition(position) })
		})
	}
	l.mu.Unlock()
	if err == nil {
		err = l.v.sync.syncErr(l.v.com.commitAll())
	}
	return l.explain(err)
}

// Close ends the load without completing it. ResumeLoader continues it.
func (l *Loader) Close() error {
	l.mu.Lock()
	ended := l.ended
	l.ended = true
	l.mu.Unlock()
	if ended {
		return nil
	}
	return l.v.Close()
}
