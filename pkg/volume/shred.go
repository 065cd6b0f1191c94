package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/header"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// ShredReceipt records what was erased, and what was not.
type ShredReceipt struct {
	Volume   string    `json:"volume"`
	Time     time.Time `json:"time"`     // when it was done, UTC
	Sequence uint64    `json:"sequence"` // of the header that is left
	// Slots are the key slots that both copies of the header held before.
	Slots []ShreddedSlot `json:"slots"`
	// Copies are both copies of the header as they are now.
	Copies []ShreddedCopy `json:"copies"`
	// Remains describes what Shred cannot erase.
	Remains []string `json:"remains"`
}

// ShreddedSlot is a key slot that was erased.
type ShreddedSlot struct {
	Copy   string `json:"copy"` // "A" or "B"
	Slot   int    `json:"slot"`
	Type   string `json:"type"`
	SHA256 string `json:"sha256"` // of what the slot held: type, params, sealed part
}

// ShreddedCopy is one copy of the header after it was overwritten, discarded if the device supports
// that, overwritten again, and read back.
type ShreddedCopy struct {
	Copy         string `json:"copy"`
	Offset       int64  `json:"offset"`
	Bytes        int64  `json:"bytes"`
	Discarded    bool   `json:"discarded"`
	DiscardError string `json:"discardError,omitempty"`
	SHA256       string `json:"sha256"` // of what was read back
}

// remains is what the owner must do.
var remains = []string{
	"Copies of this device (backups, EBS snapshots, images, clones made by copying) still have key slots: shred each. Clones share the data key until it is rotated.",
	"Keys: destroy the Secrets, also in backups of etcd, the KMS keys, passphrases and recovery keys, so that no old copy of a slot can be opened.",
	"A device that remaps sectors (flash, thin storage) may keep overwritten data out of reach of software; a discard asks it to erase them.",
}

// Shred erases all key slots of the volume on a device. After that, no key opens the volume, and
// Open reports ErrShredded. It needs no key. It may be repeated, because the first run may have
// been interrupted. Nobody has the volume open.
func Shred(dev device.Device) (*ShredReceipt, error) {
	hs, err := header.Read(dev)
	if err != nil {
		return nil, err
	}
	h, _, err := hs.Best()
	if err != nil {
		return nil, err
	}
	if a, b := hs.Copy[0], hs.Copy[1]; a != nil && b != nil && a.ID != b.ID {
		return nil, fmt.Errorf("%v and %v: %w", a.ID, b.ID, layout.ErrHeaderConflict)
	}
	return shred(dev, hs, h)
}

// Shred erases all key slots of an open volume. The volume fails at once: unwritten data in memory
// is lost, and its keys are erased. Close it afterwards.
func (v *Volume) Shred() (*ShredReceipt, error) {
	if v.opts.ReadOnly {
		return nil, vfs.ErrReadOnly
	}
	v.Thaw()
	k := &v.keys
	k.mu.Lock()
	defer k.mu.Unlock()
	if v.life.closing.Load() {
		return nil, vfs.ErrClosed
	}
	// From here on, nothing else is written, especially no header.
	v.fail(ErrShredded)
	hs, err := header.Read(v.store.Dev)
	if err != nil {
		return nil, err
	}
	r, err := shred(v.store.Dev, hs, k.header)
	if err != nil {
		return nil, err
	}
	crypto.EraseEpochs(k.epochs)
	v.store.Keys.Erase()
	return r, nil
}

// shred overwrites both copies with a header without key slots, discards them, writes them again
// (the content of a discarded range is undefined), and reads them back. At each moment at least one
// copy is intact: the old one, or the new one, which makes readers refuse the volume
// (layout.Headers.Unlock).
func shred(dev device.Device, hs *layout.Headers, old *layout.Header) (*ShredReceipt, error) {
	r := &ShredReceipt{Volume: old.ID.String(), Remains: remains, Slots: []ShreddedSlot{}}
	next := *old
	next.Slots = [crypto.Slots]crypto.Slot{}
	for i, c := range hs.Copy {
		if c == nil {
			continue
		}
		next.Sequence = max(next.Sequence, c.Sequence)
		for n := range c.Slots {
			if s := &c.Slots[n]; s.Type != crypto.SlotEmpty {
				sum := sha256.New()
				sum.Write([]byte{s.Type})
				sum.Write(s.Params)
				sum.Write(s.Sealed)
				r.Slots = append(r.Slots, ShreddedSlot{copyName(i), n, crypto.SlotTypeName(s.Type), hex.EncodeToString(sum.Sum(nil))})
			}
		}
	}
	next.Sequence++
	r.Sequence = next.Sequence
	b, err := layout.EncodeShredded(&next)
	if err != nil {
		return nil, err
	}
	head := device.AlignedBytes(len(b))
	copy(head, b)
	offsets := []int64{layout.HeaderOffsetA, layout.HeaderOffsetB}
	for _, off := range offsets {
		if err := overwrite(dev, head, off); err != nil {
			return nil, err
		}
	}
	for i, off := range offsets {
		c := ShreddedCopy{Copy: copyName(i), Offset: off, Bytes: layout.HeaderBytes, Discarded: true}
		if err := dev.Discard(off, layout.HeaderBytes); err != nil { // optional: many devices do not support it
			c.Discarded, c.DiscardError = false, err.Error()
		}
		if err := overwrite(dev, head, off); err != nil {
			return nil, err
		}
		r.Copies = append(r.Copies, c)
	}
	for i := range r.Copies {
		c := &r.Copies[i]
		got := device.AlignedBytes(len(b))
		if _, err := dev.ReadAt(got, c.Offset); err != nil {
			return nil, fmt.Errorf("%w: read back header copy %s: %w", vfs.ErrIO, c.Copy, err)
		}
		if string(got) != string(b) {
			return nil, fmt.Errorf("%w: header copy %s differs from what was written: its key slots may still exist", vfs.ErrIO, c.Copy)
		}
		sum := sha256.Sum256(got)
		c.SHA256 = hex.EncodeToString(sum[:])
	}
	r.Time = time.Now().UTC()
	return r, nil
}

func copyName(i int) string { return string("AB"[i]) }

// overwrite writes and flushes.
func overwrite(dev device.Device, b []byte, off int64) error {
	if _, err := dev.WriteAt(b, off); err != nil {
		return fmt.Errorf("%w: overwrite the header at %d: %w", vfs.ErrIO, off, err)
	}
	if err := dev.Sync(); err != nil {
		return fmt.Errorf("%w: flush: %w", vfs.ErrIO, err)
	}
	return nil
}
