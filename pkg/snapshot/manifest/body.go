package manifest

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// Errors of this package; compare with errors.Is.
var (
	// ErrExchanged: the parts of a snapshot are sound, but not of each other.
	ErrExchanged = errors.New("parts of different snapshots were put together")
	// ErrTenant: what is sealed for a tenant does not open with this secret.
	ErrTenant = errors.New("it does not open with this tenant secret")
	// ErrKey: the snapshot's key does not open its manifest.
	ErrKey = errors.New("the manifest does not open with the snapshot's key")
)

// Body is the sealed part of a manifest.
type Body struct {
	// Volume, Generation and Parent are the sealed part's own fixed fields.
	Volume     crypto.UUID
	Generation uint64
	Parent     crypto.UUID // zero: none

	Instance     format.ID         // of the volume, new for each clone
	StateRoot    [32]byte          // R of the generation: refuses a base after a device was rolled back
	ParentSealed format.Sum        // the parent's handle; zero: none
	Root         selfenc.PackedRef // of the map; a hole: nothing
	Height       uint8             // of the map: 0 is one leaf
	Content      [32]byte          // hash of the map's content, whatever the places
	Seed         [16]byte          // of the volume's hash of names
	ChunkBytes   uint32
	LogicalBytes uint64
	StoredBytes  uint64 // in packs that this snapshot added
	Files, Dirs  uint64
	Epoch        uint8  // of the tenant secret
	Since        uint32 // snapshots since the last recount
	Dropped      uint64 // bytes in packs that those snapshots ceased to need: an estimate
	Writer       string // program and version
}

const (
	bodyMagic   = "SEALVMB1"
	maxWriter   = 64
	bodyVersion = 1
)

// encode is the body without the manifest's fixed fields.
func (b *Body) encode(head format.Sum) ([]byte, error) {
	if err := format.CheckText("manifest", b.Writer, maxWriter); err != nil {
		return nil, err
	}
	out := append([]byte(bodyMagic), bodyVersion, b.Height, b.Epoch, 0)
	out = append(append(out, head[:]...), b.Instance[:]...)
	out = append(append(append(append(out, b.StateRoot[:]...), b.ParentSealed[:]...), b.Content[:]...), b.Seed[:]...)
	for _, v := range []uint64{uint64(b.ChunkBytes), uint64(b.Since), b.Dropped, b.LogicalBytes, b.StoredBytes, b.Files, b.Dirs} {
		out = le64(out, v)
	}
	out = format.AppendText(out, b.Writer)
	return selfenc.AppendPackedRef(out, &b.Root), nil
}

// decode reads what encode wrote.
func (b *Body) decode(in []byte) (head format.Sum, err error) {
	r := format.NewReader("manifest body", bodyMagic, in)
	if v := r.U8(); v != bodyVersion {
		r.Fail("version %d", v)
	}
	b.Height, b.Epoch = r.U8(), r.U8()
	r.Zeros(1)
	head, b.Instance = r.Sum(), r.ID()
	b.StateRoot, b.ParentSealed, b.Content = r.Sum(), r.Sum(), r.Sum()
	b.Seed = r.ID()
	chunk, since := r.U64(), r.U64()
	b.Dropped, b.LogicalBytes, b.StoredBytes, b.Files, b.Dirs = r.U64(), r.U64(), r.U64(), r.U64(), r.U64()
	b.ChunkBytes, b.Since = uint32(chunk), uint32(since)
	if chunk != uint64(b.ChunkBytes) || since != uint64(b.Since) || b.Height > 16 {
		r.Fail("chunks of %d bytes, %d snapshots since a recount, height %d", chunk, since, b.Height)
	}
	b.Writer = r.Text(maxWriter)
	rest := r.Rest()
	if err := r.Err(); err != nil {
		return head, err
	}
	root, n, err := selfenc.DecodePackedRef(rest)
	if err != nil {
		return head, fmt.Errorf("%w manifest body: %w", format.ErrFormat, err)
	}
	if n != len(rest) {
		r.Fail("%d bytes too many", len(rest)-n)
	}
	b.Root = root
	return head, r.Err()
}

// Seal seals the body for the head of snapshot h.S, and returns the manifest.
func Seal(keys *crypto.SnapshotKeys, h *format.Head, b *Body) ([]byte, error) {
	if crypto.UUID(h.Parent) != b.Parent {
		return nil, fmt.Errorf("%w: head and body name different parents", ErrExchanged)
	}
	body, err := b.encode(h.Binding())
	if err != nil {
		return nil, err
	}
	sealed, err := keys.SealManifest(&crypto.Manifest{Volume: b.Volume, Generation: b.Generation, Parent: b.Parent, Body: body})
	if err != nil {
		return nil, err
	}
	return format.EncodeManifest(h, sealed)
}

// Open opens the sealed part of a manifest and checks that the head is its own.
// want is the hash of a full handle; nil: the handle is a short one.
func Open(keys *crypto.SnapshotKeys, h *format.Head, sealed []byte, want *format.Sum) (*Body, error) {
	if want != nil && format.SumOf(sealed) != *want {
		return nil, fmt.Errorf("snapshot %s: %w: the manifest is not the one that the handle names", h.S, ErrExchanged)
	}
	m, err := keys.OpenManifest(sealed)
	if errors.Is(err, crypto.ErrAuthentication) {
		return nil, fmt.Errorf("snapshot %s: %w: %w", h.S, ErrKey, err)
	}
	if err != nil {
		return nil, err
	}
	b := &Body{Volume: m.Volume, Generation: m.Generation, Parent: m.Parent}
	head, err := b.decode(m.Body)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", h.S, err)
	}
	if head != h.Binding() || b.Parent != crypto.UUID(h.Parent) {
		return nil, fmt.Errorf("snapshot %s: %w: the head is not the one that was sealed", h.S, ErrExchanged)
	}
	return b, nil
}
