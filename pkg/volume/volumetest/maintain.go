package volumetest

import (
	"fmt"
	"slices"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume"
)

// Snapshot makes a snapshot, and deletes one if there are many.
func (h *History) Snapshot() string {
	h.T.Helper()
	if i := h.Rng.IntN(max(len(h.Snaps), 1)); len(h.Snaps) >= 4 && !h.Keep[h.Snaps[i]] {
		ok(h.T, h.V.DeleteSnapshot(h.Snaps[i]))
		h.Snaps = slices.Delete(h.Snaps, i, i+1)
	}
	name := fmt.Sprint("s", h.count)
	h.count++
	_, err := h.V.CreateSnapshot(name)
	ok(h.T, err)
	h.Snaps = append(h.Snaps, name)
	return name
}

// Maintain does one of what moves data, or changes the volume as a whole.
func (h *History) Maintain() {
	h.T.Helper()
	kinds := 6
	if h.Large {
		kinds = 8
	}
	switch h.Rng.IntN(kinds) {
	case 0:
		h.Last = "rotate"
		if h.V.RotationStatus().Phase == volume.RotationNone {
			_, err := h.V.RotateDataKey(volume.RotateOptions{Keys: []crypto.Credential{h.Key}, BytesPerSecond: -1})
			ok(h.T, err)
		}
		_, err := h.V.WaitRotation(h.T.Context(), nil) // as a rule it waits for snapshots
		ok(h.T, err)
	case 1:
		h.Last = "defrag"
		_, err := h.V.Defrag(h.T.Context(), volume.DefragOptions{})
		ok(h.T, err)
	case 2:
		h.Last = "rollback"
		if len(h.Snaps) == 0 {
			return
		}
		i := h.Rng.IntN(len(h.Snaps))
		ok(h.T, h.V.Rollback(h.Snaps[i], true))
		h.Snaps = h.Snaps[:i+1]
		h.mount()
		h.Find()
	case 3:
		h.Last = "grow"
		size, err := h.Dev.Size()
		ok(h.T, err)
		h.Dev.Grow(size + 8<<20)
		_, err = h.V.Grow()
		ok(h.T, err)
	case 4:
		h.Last = "remount"
		h.Close()
		h.mount()
		h.Find()
	case 6:
		h.Last = "clone"
		h.Close()
		h.Dev = h.Dev.Clone()
		v, err := volume.Open(h.Dev, volume.Options{Credential: h.Key, CommitInterval: -1, Memory: engineMemory, Instance: crypto.NewUUID()})
		ok(h.T, err)
		h.V = v
		h.Find()
	case 7:
		h.Last = "rotate key"
		k, err := crypto.GenerateKey()
		ok(h.T, err)
		old, cred := h.Key, crypto.SecretCredential(k)
		if h.V.RotationStatus().Phase != volume.RotationNone {
			return
		}
		_, err = h.V.RotateKey(h.T.Context(), old, volume.Key{Recipient: cred, Credential: cred})
		ok(h.T, err)
		h.Key = cred
	}
}

func (h *History) mount() {
	h.T.Helper()
	v, err := volume.Open(h.Dev, volume.Options{Credential: h.Key, CommitInterval: -1, Memory: engineMemory})
	ok(h.T, err)
	h.V = v
}
