package crypto

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
)

// ChunkKind is what a chunk of a snapshot holds.
type ChunkKind uint8

// The kinds of chunks.
const (
	ChunkData ChunkKind = 1
	ChunkMap  ChunkKind = 2
	ChunkTree ChunkKind = 3
)

// ChunkRef names a chunk and holds what opens it. References lie only inside
// sealed maps, trees and manifests.
type ChunkRef struct {
	Suite  Suite
	Kind   ChunkKind
	Comp   uint8    // compression of the payload; 0: none
	Length uint32   // of the chunk before compression, bytes
	D      [32]byte // identifies the chunk within the tenant
	P      [32]byte // identifies the payload; D if Comp is 0
	Name   [32]byte // SHA-256 of the object, its name in the store
}

// Validate checks the reference's bounds.
func (r *ChunkRef) Validate() error {
	if err := r.Suite.Validate(); err != nil {
		return err
	}
	if r.Kind < ChunkData || r.Kind > ChunkTree {
		return fmt.Errorf("chunk of unknown kind %d", r.Kind)
	}
	if r.Comp == 0 && r.P != r.D {
		return errors.New("malformed chunk reference")
	}
	return nil
}

// TenantKeys seal the chunks of one tenant. Equal chunks of a tenant give
// equal objects, if they were compressed alike; no one without the tenant
// secret can tell what a chunk holds. Safe for concurrent use.
type TenantKeys struct {
	redacted
	mu  sync.RWMutex // as in EpochKeys
	mem *region
	c   secret

	pagesMu sync.Mutex // taken last
	pages   []*region  // for the keys of chunks, empty; guarded by pagesMu
}

// DeriveTenantKeys derives a tenant's keys from its secret.
func DeriveTenantKeys(secret *Key) (*TenantKeys, error) {
	if secret.Bytes() == nil {
		return nil, ErrErased
	}
	mem, err := newRegion()
	if err != nil {
		return nil, err
	}
	t := &TenantKeys{mem: mem, c: mem.take(KeyBytes)}
	extract(t.c.bytes(), saltTenant, nil, secret.Bytes())
	return t, nil
}

// Erase waits for running calls and overwrites the keys.
func (t *TenantKeys) Erase() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mem.erase()
	t.c = secret{}
	for _, p := range t.pages { // no call is running
		p.erase()
	}
	t.pages = nil
}

// maxFreePages bounds the locked memory that is kept for the next chunks.
const maxFreePages = 64

// page returns locked memory for one chunk's key. Mapping it anew for each chunk
// would take as long as a tenth of sealing one of 64 KiB.
func (t *TenantKeys) page() (*region, error) {
	t.pagesMu.Lock()
	defer t.pagesMu.Unlock()
	n := len(t.pages)
	if n == 0 {
		return newRegion()
	}
	p := t.pages[n-1]
	t.pages = t.pages[:n-1]
	return p, nil
}

// giveBack overwrites what was in a page and keeps it for the next chunk.
func (t *TenantKeys) giveBack(p *region) {
	p.empty()
	t.pagesMu.Lock()
	defer t.pagesMu.Unlock()
	if len(t.pages) < maxFreePages {
		t.pages = append(t.pages, p)
		return
	}
	p.erase()
}

// id returns HMAC(X(C, label, context), b).
func (t *TenantKeys) id(label string, context, b []byte) (id [32]byte) {
	w := workspaces.Get().(*workspace)
	defer w.release()
	defer clear(w.sub[:])
	expand(w.sub[:], t.c.bytes(), label, context)
	m := newMAC(w.sub[:])
	m.Write(b)
	m.finish(id[:])
	return id
}

func (t *TenantKeys) chunkID(k ChunkKind, chunk []byte) [32]byte {
	return t.id("chunk-id", []byte{byte(k)}, chunk)
}

func (t *TenantKeys) payloadID(k ChunkKind, comp uint8, payload []byte) [32]byte {
	return t.id("payload-id", []byte{byte(k), comp}, payload)
}

// chunkBox passes the box of one payload's key to use.
func (t *TenantKeys) chunkBox(s Suite, k ChunkKind, comp uint8, p *[32]byte, use func(*box) error) error {
	mem, err := t.page()
	if err != nil {
		return err
	}
	defer t.giveBack(mem)
	key := mem.take(KeyBytes)
	expand(key.bytes(), t.c.bytes(), "chunk-key", []byte{byte(s), byte(k), comp}, p[:])
	var b box
	if err := b.init(s, key, mem); err != nil {
		return err
	}
	return use(&b)
}

func chunkAAD(s Suite, k ChunkKind, comp uint8) []byte {
	return append([]byte("DCv2C"), byte(s), byte(k), comp)
}

// The nonce is zeros: the chunk key is derived from p, which identifies the
// very bytes sealed, and from suite, kind and compression, which are all of
// the associated data. So a key only ever seals one message.
var chunkNonce [nonceBytes]byte

// ChunkID returns d, by which equal chunks of a tenant are recognised.
func (t *TenantKeys) ChunkID(k ChunkKind, chunk []byte) ([32]byte, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.c.at == nil {
		return [32]byte{}, ErrErased
	}
	return t.chunkID(k, chunk), nil
}

// SealChunk appends the object for a chunk to dst and returns its reference.
// payload is the chunk's compression if comp is not 0, else ignored.
func (t *TenantKeys) SealChunk(s Suite, k ChunkKind, comp uint8, chunk, payload, dst []byte) (ChunkRef, []byte, error) {
	start := len(dst)
	r, dst, err := t.SealPacked(s, k, comp, chunk, payload, dst)
	if err != nil {
		return ChunkRef{}, nil, err
	}
	r.Name = sha256.Sum256(dst[start:])
	return r, dst, nil
}

// SealPacked is SealChunk for an object that gets no name of its own: it lies in
// a pack, which has one. The reference's Name is zero.
func (t *TenantKeys) SealPacked(s Suite, k ChunkKind, comp uint8, chunk, payload, dst []byte) (ChunkRef, []byte, error) {
	c, err := t.Identify(k, chunk)
	if err != nil {
		return ChunkRef{}, nil, err
	}
	return t.SealIdentified(s, comp, &c, payload, dst)
}

// ErrObjectName is the ErrAuthentication of an object that is not the one a
// reference names. Names are no secret: anyone can tell.
var ErrObjectName = fmt.Errorf("%w: the object has another name", ErrAuthentication)

// OpenChunk appends the payload of an object to dst, having checked that it is
// the one that r names. If r.Comp is not 0, the caller decompresses it to
// r.Length bytes and passes them to CheckChunk.
func (t *TenantKeys) OpenChunk(r *ChunkRef, object, dst []byte) ([]byte, error) {
	if t.erased() {
		return nil, ErrErased
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	if sha256.Sum256(object) != r.Name {
		return nil, ErrObjectName
	}
	return t.OpenPacked(r, object, dst)
}

// OpenPacked is OpenChunk for what SealPacked made. It needs no name: the AEAD
// and p, to which the key is bound, leave no other object.
func (t *TenantKeys) OpenPacked(r *ChunkRef, object, dst []byte) ([]byte, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.c.at == nil {
		return nil, ErrErased
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	start := len(dst)
	err := t.chunkBox(r.Suite, r.Kind, r.Comp, &r.P, func(b *box) (err error) {
		dst, err = b.open(dst, chunkNonce[:], object, chunkAAD(r.Suite, r.Kind, r.Comp))
		return err
	})
	if err != nil {
		return nil, err
	}
	// The AEAD does not commit to its key, p commits to the payload.
	var p [32]byte
	if r.Comp == 0 {
		p = t.chunkID(r.Kind, dst[start:])
	} else {
		p = t.payloadID(r.Kind, r.Comp, dst[start:])
	}
	if !equal(p[:], r.P[:]) || r.Comp == 0 && len(dst)-start != int(r.Length) {
		clear(dst[start:])
		return nil, ErrAuthentication
	}
	return dst, nil
}

// CheckChunk checks that chunk, decompressed, is what r names.
func (t *TenantKeys) CheckChunk(r *ChunkRef, chunk []byte) error {
	d, err := t.ChunkID(r.Kind, chunk)
	if err != nil {
		return err
	}
	if !equal(d[:], r.D[:]) || len(chunk) != int(r.Length) {
		return ErrAuthentication
	}
	return nil
}

// SnapshotKeys seal the manifest of one snapshot. Safe for concurrent use.
type SnapshotKeys struct {
	redacted
	suite Suite
	id    UUID
	mu    sync.RWMutex // as in EpochKeys
	mem   *region
	box   box
}

// DeriveSnapshotKeys derives the keys of snapshot id from its key, which the
// caller keeps and erases.
func DeriveSnapshotKeys(s Suite, id UUID, sk *Key) (*SnapshotKeys, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if sk.Bytes() == nil {
		return nil, ErrErased
	}
	mem, err := newRegion()
	if err != nil {
		return nil, err
	}
	k := &SnapshotKeys{suite: s, id: id, mem: mem}
	prk, key := mem.take(KeyBytes), mem.take(KeyBytes)
	extract(prk.bytes(), saltSnapshot, id[:], sk.Bytes())
	expand(key.bytes(), prk.bytes(), "manifest", []byte{byte(s)})
	clear(prk.bytes())
	if err := k.box.init(s, key, mem); err != nil {
		mem.erase()
		return nil, err
	}
	return k, nil
}

// Erase waits for running calls and overwrites the keys.
func (k *SnapshotKeys) Erase() {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mem.erase()
	k.mem, k.box = nil, box{}
}

func (k *SnapshotKeys) aad() []byte {
	return append(append([]byte("DCv2M"), byte(k.suite)), k.id[:]...)
}

// Manifest is what a sealed manifest holds.
type Manifest struct {
	Volume     UUID
	Generation uint64
	Parent     UUID // zero: none
	Body       []byte
}

const manifestFixedBytes = 16 + 8 + 16

// SealManifest returns the sealed manifest.
func (k *SnapshotKeys) SealManifest(m *Manifest) ([]byte, error) {
	// 24 random bytes at each seal, and few manifests a key.
	var nonce [nonceBytes]byte
	rand.Read(nonce[:])
	return k.sealManifest(nonce, m)
}

// sealManifest is SealManifest under a nonce that was drawn for it alone.
func (k *SnapshotKeys) sealManifest(nonce [nonceBytes]byte, m *Manifest) ([]byte, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.mem == nil {
		return nil, ErrErased
	}
	plain := append(make([]byte, 0, manifestFixedBytes+len(m.Body)), m.Volume[:]...)
	plain = binary.LittleEndian.AppendUint64(plain, m.Generation)
	plain = append(append(plain, m.Parent[:]...), m.Body...)
	defer clear(plain)
	dst := append(make([]byte, 0, nonceBytes+len(plain)+tagBytes), nonce[:]...)
	return k.box.seal(dst, nonce[:], plain, k.aad())
}

// OpenManifest opens a sealed manifest; Body is memory of its own.
func (k *SnapshotKeys) OpenManifest(sealed []byte) (*Manifest, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.mem == nil {
		return nil, ErrErased
	}
	if len(sealed) < nonceBytes+manifestFixedBytes+tagBytes {
		return nil, ErrAuthentication
	}
	b, err := k.box.open(nil, sealed[:nonceBytes], sealed[nonceBytes:], k.aad())
	if err != nil {
		return nil, err
	}
	return &Manifest{
		Volume:     UUID(b[:16]),
		Generation: binary.LittleEndian.Uint64(b[16:]),
		Parent:     UUID(b[24:40]),
		Body:       b[manifestFixedBytes:],
	}, nil
}

// NewSnapshotSlot seals the key sk of snapshot id as its slot index.
func NewSnapshotSlot(s Suite, id UUID, index uint8, r Recipient, sk *Key) (Slot, error) {
	return newSlot(s, id, index, r, []EpochKey{{0, sk}}, saltSnapshot)
}

// OpenSnapshotSlot opens what NewSnapshotSlot sealed; errors as in OpenSlot.
// The caller erases the key.
func OpenSnapshotSlot(s Suite, id UUID, index uint8, slot *Slot, c Credential) (*Key, error) {
	epochs, err := openSlot(s, id, index, slot, c, saltSnapshot)
	if err != nil {
		return nil, err
	}
	if len(epochs) != 1 || epochs[0].Epoch != 0 {
		EraseEpochs(epochs)
		return nil, ErrAuthentication
	}
	return epochs[0].VMK, nil
}

// ObjectName returns the name of a stored object, its SHA-256.
func ObjectName(object []byte) [32]byte { return sha256.Sum256(object) }
