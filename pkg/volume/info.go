package volume

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/header"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// RecordBytes is the record size: the most data sealed under one nonce.
const RecordBytes = 64 << 10

// HeaderInfo is what anyone can read in the header. Without a key, none of it is authenticated.
type HeaderInfo struct {
	ID            crypto.UUID
	Suite         crypto.Suite
	FormatVersion uint32
	Sequence      uint64 // number of the header's writes, from 1
	// Feature words.
	Compat, ROCompat, Incompat uint64
	// Restoring means that the volume is incomplete: its restore has not ended.
	Restoring bool
	Slots     []SlotInfo // those in use
	// Damaged describes copies of the header that cannot be decoded.
	Damaged []string
}

// SlotInfo is one key slot in use.
type SlotInfo struct {
	Index int
	Type  uint8 // crypto.SlotSecret…; crypto.SlotTypeName names it
}

// ReadHeader reads the header of a volume. The volume may be in use.
func ReadHeader(dev device.Device) (*HeaderInfo, error) {
	hs, err := header.Read(dev)
	if err != nil {
		return nil, err
	}
	h, _, err := hs.Best()
	if err != nil {
		return nil, err
	}
	i := headerInfo(h)
	for n, err := range hs.Err {
		if err != nil {
			i.Damaged = append(i.Damaged, fmt.Sprintf("copy %c: %v", 'A'+n, err))
		}
	}
	return i, nil
}

func headerInfo(h *layout.Header) *HeaderInfo {
	i := &HeaderInfo{ID: h.ID, Suite: h.Suite, FormatVersion: layout.FormatVersion, Sequence: h.Sequence,
		Compat: h.Compat, ROCompat: h.ROCompat, Incompat: h.Incompat, Restoring: h.Restoring()}
	for n := range h.Slots {
		if h.Slots[n].Type != 0 {
			i.Slots = append(i.Slots, SlotInfo{n, h.Slots[n].Type})
		}
	}
	return i
}

// RootInfo describes the newest root: the state of the last commit.
type RootInfo struct {
	Header     *HeaderInfo // verified
	Slot       int         // the key slot that opened
	Generation uint64
	MountEpoch uint64 // counts read-write mounts
	Clean      bool   // written by a clean unmount
	BadRoots   []int  // root slots that are not empty and do not verify

	SizeBytes int64 // part of the device that the volume uses
	DataBytes int64 // of these, available to files and metadata
	FreeBytes int64 // as of that commit, without ReservedBytes
	// ReservedBytes is free space that is withheld for reserved ranges (fallocate).
	ReservedBytes int64
	LogBytes      int64
	Inodes        uint64

	// LogRecords is the number of records in the log that are newer than the root. LogErr is the
	// reason why it cannot be replayed. Neither is set for a volume in use.
	LogRecords int
	LogErr     error

	Label string // as of that commit; "" if there is none or it cannot be read
}

// Inspect reads the newest root without mounting or changing anything. With inUse, the volume may
// be mounted meanwhile, and its log is not read, because it changes all the time.
func Inspect(dev device.Device, cred crypto.Credential, inUse bool) (*RootInfo, error) {
	u, keys, err := header.UnlockAny(dev, cred, nil)
	if err != nil {
		return nil, err
	}
	defer crypto.EraseEpochs(u.Epochs)
	defer keys.Erase()
	store := &txn.Store{Dev: dev, Keys: keys}
	found, bad, err := header.NewestRoot(dev, store, u)
	if err != nil {
		return nil, txn.Wrap(err)
	}
	r := found[0].Root
	i := &RootInfo{Header: headerInfo(u.Header), Slot: u.Slot, Generation: r.Generation, MountEpoch: r.MountEpoch,
		Clean: r.Clean, BadRoots: bad, SizeBytes: int64(r.DeviceBlocks) * layout.BlockBytes,
		DataBytes: int64(r.DeviceBlocks-r.DataStart()) * layout.BlockBytes,
		LogBytes:  int64(r.LogBlocks) * layout.BlockBytes, Inodes: r.Inodes}
	i.Label = readLabel(store, r)
	i.FreeBytes = int64(r.FreeBlocks) * layout.BlockBytes
	for n := range r.FreeLists {
		i.FreeBytes += int64(r.FreeLists[n].Blocks) * layout.BlockBytes
	}
	i.ReservedBytes = int64(r.Reserved.Owed) * layout.BlockBytes
	i.FreeBytes = max(i.FreeBytes-i.ReservedBytes, 0)
	if r.Clean || inUse {
		return i, nil
	}
	rp, err := store.ReadLog(r)
	if err != nil {
		i.LogErr = txn.Wrap(err)
		return i, nil
	}
	i.LogRecords = len(rp.Ends)
	return i, nil
}

// readLabel returns the label in a root. If the volume is in use, the data may be overwritten while
// it is read.
func readLabel(store *txn.Store, r *layout.Root) string {
	fs := tree.New(tree.Config{ID: layout.TreeFS, Cache: tree.NewCache(0, store.ReadNode)}, r.Trees[layout.TreeFS], r.Generation+1)
	f, err := items.NewHasher(r.HashSeed).FindXattr(fs.Scan, uint64(vfs.RootIno), vfs.LabelXattr)
	if err != nil {
		return ""
	}
	return string(f.Value)
}
