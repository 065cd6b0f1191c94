package pinned

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// DefaultMemory is the default size of the cache of metadata pages, in bytes.
const DefaultMemory = 32 << 20

// Options configures Open. Either Credential or Keys is set.
type Options struct {
	Credential crypto.Credential // opens one of the volume's key slots
	Keys       *Keys             // from a process that has the volume open
	Memory     int               // bytes of the page cache; DefaultMemory if 0
}

// Identity is what never changes about a volume, except that its device may grow, and that a copy
// of the device gets an instance of its own.
type Identity struct {
	ID          crypto.UUID
	Instance    crypto.UUID
	Suite       crypto.Suite
	HashSeed    [16]byte // of names (package namehash)
	DeviceBytes int64    // part of the device that the volume uses
}

// Keys are a volume's data keys, which one process hands over to another.
type Keys struct {
	Identity Identity
	Epochs   []crypto.EpochKey // ascending
}

// Erase erases the keys.
func (k *Keys) Erase() { crypto.EraseEpochs(k.Epochs) }

// Volume is a device of which snapshots are read.
type Volume struct {
	dev   device.Device
	cred  crypto.Credential // nil: opened with Keys
	store *txn.Store
	cache *tree.Cache

	identity Identity
	closed   atomic.Bool

	mu       sync.Mutex        // held while the header is read
	unlocked *layout.Unlocked  // the header last opened with cred
	seen     uint64            // sequence number of the newest copy then; each change raises it
	keep     bool              // keep epochs, for ReadKeys
	epochs   []crypto.EpochKey // of unlocked
}

// Open opens a device for reading snapshots. The volume may be mounted meanwhile, by this process or
// another one. The caller closes the device after the Volume, and may erase Keys after Open.
func Open(dev device.Device, o Options) (*Volume, error) { return open(dev, o, false) }

func open(dev device.Device, o Options, keep bool) (*Volume, error) {
	if (o.Credential == nil) == (o.Keys == nil) {
		return nil, errors.New("either a credential or keys are needed to open a volume")
	}
	if o.Memory == 0 {
		o.Memory = DefaultMemory
	}
	v := &Volume{dev: dev, cred: o.Credential, store: &txn.Store{Dev: dev, Keys: txn.NewKeys()}, keep: keep}
	v.cache = tree.NewCache(o.Memory, v.store.ReadNode)
	if err := v.identify(o.Keys); err != nil {
		v.Close()
		crypto.EraseEpochs(v.epochs)
		return nil, txn.Wrap(err)
	}
	return v, nil
}

// identify reads the keys, and finds out whose they are.
func (v *Volume) identify(k *Keys) error {
	if k != nil {
		if len(k.Epochs) == 0 {
			return errors.New("keys of no epoch were handed over")
		}
		v.identity = k.Identity
		if err := v.addKeys(k.Identity.Suite, k.Identity.ID, k.Epochs); err != nil {
			return err
		}
		return retry(func() error { // it may be another device
			_, err := v.unlock()
			return err
		})
	}
	root, err := v.newestRoot()
	if err != nil {
		return err
	}
	v.identity = Identity{ID: v.unlocked.ID, Suite: v.unlocked.Suite, Instance: root.Instance, HashSeed: root.HashSeed,
		DeviceBytes: int64(root.DeviceBlocks) * layout.BlockBytes}
	return nil
}

// addKeys derives the keys of epochs that are not known yet.
func (v *Volume) addKeys(suite crypto.Suite, id crypto.UUID, epochs []crypto.EpochKey) error {
	for _, e := range epochs {
		if v.store.Keys.Get(e.Epoch) != nil {
			continue
		}
		k, err := crypto.DeriveEpochKeys(suite, id, e.Epoch, e.VMK)
		if err != nil {
			return fmt.Errorf("keys of epoch %d: %w", e.Epoch, err)
		}
		v.store.Keys.Add(k)
	}
	return nil
}

// Identity returns what identifies the volume, as of Open.
func (v *Volume) Identity() Identity { return v.identity }

// RecoveryRecipients returns the public halves of the volume's recovery keys, as of Open. They are
// authentic: who does not have a key of the volume cannot have added one. Nil if the volume was
// opened with Keys, which do not tell.
func (v *Volume) RecoveryRecipients() (list []*crypto.RecoveryRecipient, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.unlocked == nil {
		return nil, nil
	}
	h := v.unlocked.Header
	for i := range h.Slots {
		if h.Slots[i].Type != crypto.SlotRecovery {
			continue
		}
		r, err := crypto.SlotRecipient(h.Suite, &h.Slots[i])
		if err != nil {
			return nil, fmt.Errorf("key slot %d: %w", i, err)
		}
		list = append(list, r)
	}
	return list, nil
}

// ReadKeys opens a key slot and returns what another process needs to Open the device without the
// credential. The caller erases the keys.
func ReadKeys(dev device.Device, cred crypto.Credential) (*Keys, error) {
	v, err := open(dev, Options{Credential: cred}, true)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	return &Keys{Identity: v.identity, Epochs: v.epochs}, nil
}

// Close erases the keys. Reads that are running end with vfs.ErrClosed.
func (v *Volume) Close() {
	v.closed.Store(true)
	v.store.Keys.Erase()
}
