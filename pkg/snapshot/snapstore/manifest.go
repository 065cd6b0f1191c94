package snapstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
)

// Manifest is an opened manifest.
type Manifest struct {
	Head   *format.Head
	Sealed []byte
	Body   *manifest.Body
}

// Manifest reads and opens the manifest of a snapshot with its key: everything in it is checked,
// against the card, too, if that is known. want is the hash of a full handle, or nil. Whoever goes on
// reading holds a lease (commit.Read). The errors of Snapshot.Check; ErrLost, ErrExchanged, ErrKey.
func (s *Store) Manifest(ctx context.Context, sn *Snapshot, want *format.Sum, sk *crypto.Key) (*Manifest, error) {
	h, sealed, err := s.Head(ctx, sn)
	if err != nil {
		return nil, err
	}
	return s.OpenManifest(sn, h, sealed, want, sk)
}

// OpenManifest is Manifest for one that was read already, such as by commit.Read.
func (s *Store) OpenManifest(sn *Snapshot, h *format.Head, sealed []byte, want *format.Sum, sk *crypto.Key) (*Manifest, error) {
	if sn.Card != nil {
		if err := sn.Card.Check(h); err != nil {
			return nil, err
		}
	}
	body, err := openBody(h, sealed, want, sk)
	if err != nil {
		return nil, err
	}
	if sn.Card != nil && format.ID(body.Volume) != sn.Card.Volume {
		return nil, fmt.Errorf("snapshot %s: %w: card and manifest name different volumes", h.S, ErrExchanged)
	}
	return &Manifest{Head: h, Sealed: sealed, Body: body}, nil
}

// Head reads the manifest of a snapshot without its key, and compares it with the card, if that is
// known. The pack list in it is only authenticated by Manifest.
func (s *Store) Head(ctx context.Context, sn *Snapshot) (h *format.Head, sealed []byte, err error) {
	if err := sn.Check(); err != nil {
		return nil, nil, err
	}
	h, sealed, err = commit.Manifest(ctx, s.objects, sn.ID)
	if errors.Is(err, commit.ErrNoBase) {
		return nil, nil, fmt.Errorf("snapshot %s: %w: its manifest", sn.ID, ErrLost)
	}
	if err == nil && sn.Card != nil {
		err = sn.Card.Check(h)
	}
	if err != nil {
		return nil, nil, err
	}
	return h, sealed, nil
}

func openBody(h *format.Head, sealed []byte, want *format.Sum, sk *crypto.Key) (*manifest.Body, error) {
	keys, err := crypto.DeriveSnapshotKeys(crypto.Suite(h.Suite), crypto.UUID(h.S), sk)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", h.S, err)
	}
	defer keys.Erase()
	return manifest.Open(keys, h, sealed, want)
}

// OpenBody opens the manifest of a snapshot, as somebody read it, with a key that opens one of its
// slots. ErrNoSlot, ErrKey, ErrExchanged.
func (s *Store) OpenBody(ctx context.Context, h *format.Head, sealed []byte, c crypto.Credential) (*manifest.Body, error) {
	sk, err := s.SnapshotKey(ctx, h.S, c)
	if err != nil {
		return nil, err
	}
	defer sk.Erase()
	return openBody(h, sealed, nil, sk)
}
