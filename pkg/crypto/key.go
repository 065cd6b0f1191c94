package crypto

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"reflect"
	"sync"
)

// KeyBytes is the length of every key, in bytes.
const KeyBytes = 32

// Key is 32 secret bytes in locked memory, until Erase. It is not safe to
// erase a Key while another goroutine uses it.
type Key struct {
	redacted
	mem   *region
	value secret // inside mem; zero after Erase
}

func emptyKey() (*Key, error) {
	mem, err := newRegion()
	if err != nil {
		return nil, err
	}
	return &Key{mem: mem, value: mem.take(KeyBytes)}, nil
}

// NewKey moves the 32 bytes of b into a Key; b is zeros afterwards, even on
// error.
func NewKey(b []byte) (*Key, error) {
	defer clear(b)
	if len(b) != KeyBytes {
		return nil, fmt.Errorf("a key has %d bytes, not %d", KeyBytes, len(b))
	}
	k, err := emptyKey()
	if err != nil {
		return nil, err
	}
	copy(k.Bytes(), b)
	return k, nil
}

// GenerateKey returns a random key.
func GenerateKey() (*Key, error) {
	k, err := emptyKey()
	if err != nil {
		return nil, err
	}
	rand.Read(k.Bytes()) // never fails since Go 1.24
	return k, nil
}

// Bytes returns the key itself, not a copy: it is valid until Erase, and
// belongs in no variable that outlives the call. It is nil after Erase.
func (k *Key) Bytes() []byte {
	if k == nil {
		return nil
	}
	return k.value.bytes()
}

// Clone returns a second copy, to be erased separately.
func (k *Key) Clone() (*Key, error) {
	if k.Bytes() == nil {
		return nil, ErrErased
	}
	c, err := emptyKey()
	if err != nil {
		return nil, err
	}
	copy(c.Bytes(), k.Bytes())
	return c, nil
}

// Erase overwrites the key. It may be called again, and on nil.
func (k *Key) Erase() {
	if k == nil {
		return
	}
	k.mem.erase()
	k.value = secret{}
}

// The labels of the key schedule (threat model, "Key schedule").
const (
	saltVolume   = "doublecrypt-v2"
	saltSnapshot = "doublecrypt-v2 snap"
	saltTenant   = "doublecrypt-v2 conv"
	saltSecret   = "doublecrypt-v2 tenant" // of a tenant secret's slots
)

// EpochKeys are the keys derived from one epoch's VMK, in locked memory.
// All methods are safe for concurrent use.
type EpochKeys struct {
	redacted
	suite Suite
	id    UUID
	epoch uint32

	mu  sync.RWMutex // held for reading by every use, for writing by Erase
	mem *region      // nil after Erase

	data, meta, log, root box
	anchor, header        secret
	commit                secret
}

// DeriveEpochKeys derives the keys of an epoch (from 1) from its VMK, which
// the caller keeps and erases.
func DeriveEpochKeys(s Suite, id UUID, epoch uint32, vmk *Key) (*EpochKeys, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if epoch == 0 {
		return nil, errors.New("key epochs count from 1")
	}
	if vmk.Bytes() == nil {
		return nil, ErrErased
	}
	mem, err := newRegion()
	if err != nil {
		return nil, err
	}
	k := &EpochKeys{suite: s, id: id, epoch: epoch, mem: mem}
	prk := mem.take(KeyBytes).bytes()
	defer clear(prk)
	extract(prk, saltVolume, id[:], vmk.Bytes())

	ctx := []byte{byte(s)}
	for _, b := range []struct {
		box   *box
		label string
	}{{&k.data, "data"}, {&k.meta, "meta"}, {&k.log, "log"}, {&k.root, "root"}} {
		key := mem.take(KeyBytes)
		expand(key.bytes(), prk, b.label, ctx)
		if err := b.box.init(s, key, mem); err != nil {
			mem.erase()
			return nil, err
		}
	}
	k.anchor, k.header, k.commit = mem.take(KeyBytes), mem.take(KeyBytes), mem.take(commitBytes)
	expand(k.anchor.bytes(), prk, "anchor")
	expand(k.header.bytes(), prk, "header")
	expand(k.commit.bytes(), prk, "commit")
	return k, nil
}

// Epoch returns the key epoch, from 1.
func (k *EpochKeys) Epoch() uint32 { return k.epoch }

// Suite returns the volume's suite.
func (k *EpochKeys) Suite() Suite { return k.suite }

// ID returns the volume's UUID.
func (k *EpochKeys) ID() UUID { return k.id }

// Commitment returns the value that binds key slots to the VMK. After Erase
// it is zeros.
func (k *EpochKeys) Commitment() (c [32]byte) {
	if k.hold() == nil {
		defer k.mu.RUnlock()
		copy(c[:], k.commit.bytes())
	}
	return c
}

// Erase waits for running calls and overwrites all keys; later calls return
// ErrErased. It may be called again, and on nil.
func (k *EpochKeys) Erase() {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mem.erase()
	k.mem = nil
	k.data, k.meta, k.log, k.root = box{}, box{}, box{}, box{}
	k.anchor, k.header, k.commit = secret{}, secret{}, secret{}
}

// hold keeps the keys from being erased until mu.RUnlock.
func (k *EpochKeys) hold() error {
	k.mu.RLock()
	if k.mem == nil {
		k.mu.RUnlock()
		return ErrErased
	}
	return nil
}

// lockedBlock returns an AES cipher whose key schedule lies in mem: the
// standard library would keep it on the heap for as long as the volume is
// mounted. aes.Block holds no pointers (a test checks that), so the garbage
// collector has no interest in it.
// It is returned within a function, into which no printer can look.
func lockedBlock(key []byte, mem *region) (func() cipher.Block, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	from := reflect.ValueOf(b).Elem()
	place := mem.take(int(from.Type().Size()))
	to := reflect.NewAt(from.Type(), place.at)
	to.Elem().Set(from)
	from.SetZero()
	locked := to.Interface().(cipher.Block)
	return func() cipher.Block { return locked }, nil
}

// eraseHeap overwrites the object behind p, a pointer in an interface such as
// a cipher.AEAD of the standard library, which offers no other way.
func eraseHeap(p any) { reflect.ValueOf(p).Elem().SetZero() }
