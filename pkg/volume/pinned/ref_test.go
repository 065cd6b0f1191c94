package pinned_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// TestHandOver reads a snapshot as a process does that has no credential.
func TestHandOver(t *testing.T) {
	h := newHistory(t, 8, 96<<20)
	h.Steps(200)
	_, err := h.V.CreateSnapshot("s")
	ok(t, err)
	owner, err := pinned.Open(h.Dev, pinned.Options{Credential: newKey(t)})
	ok(t, err)
	defer owner.Close()
	s, err := owner.Snapshot("s")
	ok(t, err)
	ref := s.Ref()
	sent := ref.Append(nil)
	keys, err := pinned.ReadKeys(h.Dev, newKey(t))
	ok(t, err)

	got, err := pinned.DecodeStateRef(sent)
	if ok(t, err); got != ref {
		t.Fatalf("decoded %+v, not %+v", got, ref)
	}
	worker, err := pinned.Open(h.Dev, pinned.Options{Keys: keys})
	ok(t, err)
	defer worker.Close()
	keys.Erase()
	there, err := worker.At(got)
	ok(t, err)
	if there.Info() != s.Info() || worker.Identity() != owner.Identity() {
		t.Errorf("the worker has %+v of %+v, its owner %+v of %+v", there.Info(), worker.Identity(), s.Info(), owner.Identity())
	}
	if id := owner.Identity(); id.ID != h.V.ID() || id.DeviceBytes != 96<<20 || id.HashSeed == [16]byte{} || id.Suite != crypto.SuiteXChaCha20Poly1305 {
		t.Errorf("identity: %+v", id)
	}
	ok(t, all(t, there).same(all(t, s)))
	if _, err := worker.Snapshot("s"); err != nil {
		t.Error(err)
	}

	// A newer key is not the worker's.
	_, err = h.V.RotateDataKey(volume.RotateOptions{Keys: []crypto.Credential{newKey(t)}, BytesPerSecond: -1})
	ok(t, err)
	h.Steps(50)
	_, err = h.V.CreateSnapshot("later")
	ok(t, err)
	newer, err := pinned.Open(h.Dev, pinned.Options{Credential: newKey(t)})
	ok(t, err)
	defer newer.Close()
	later, err := newer.Snapshot("later")
	ok(t, err)
	later, err = owner.At(later.Ref()) // it has the credential
	ok(t, err)
	all(t, later)
	if _, err := worker.At(later.Ref()); !errors.Is(err, vfs.ErrCorrupt) {
		t.Errorf("a snapshot under a key that was not handed over: %v", err)
	}
	ok(t, all(t, there).same(all(t, s)))
	h.Close()
}

// TestRefusals: what cannot be opened says why.
func TestRefusals(t *testing.T) {
	h, o := newHistory(t, 8, 96<<20), newHistory(t, 9, 96<<20)
	for _, x := range []*history{h, o} {
		_, err := x.V.CreateSnapshot("s")
		ok(t, err)
	}
	p, err := pinned.Open(h.Dev, pinned.Options{Credential: newKey(t)})
	ok(t, err)
	defer p.Close()
	q, err := pinned.Open(o.Dev, pinned.Options{Credential: newKey(t)})
	ok(t, err)
	defer q.Close()
	s, err := p.Snapshot("s")
	ok(t, err)
	other, err := q.Snapshot("s")
	ok(t, err)
	keys, err := pinned.ReadKeys(h.Dev, newKey(t))
	ok(t, err)
	wrong, err := crypto.GenerateKey()
	ok(t, err)
	for name, c := range map[string]struct {
		do   func() error
		want error
	}{
		"no such snapshot":       {func() error { _, err := p.Snapshot("x"); return err }, pinned.ErrNoSnapshot},
		"ref of another volume":  {func() error { _, err := p.At(other.Ref()); return err }, pinned.ErrOtherVolume},
		"diff of two volumes":    {func() error { return pinned.Diff(t.Context(), other, s, &counter{}) }, pinned.ErrOtherVolume},
		"zero ref":               {func() error { _, err := p.At(pinned.StateRef{Volume: p.Identity().ID}); return err }, pinned.ErrInvalidRef},
		"keys of another volume": {func() error { _, err := pinned.Open(o.Dev, pinned.Options{Keys: keys}); return err }, pinned.ErrOtherVolume},
		"wrong key": {func() error {
			_, err := pinned.Open(h.Dev, pinned.Options{Credential: crypto.SecretCredential(wrong)})
			return err
		}, volume.ErrWrongKey},
		"no volume": {func() error {
			_, err := pinned.Open(newBlank(t), pinned.Options{Credential: newKey(t)})
			return err
		}, volume.ErrNotSealvol},
		"a volume that is being restored": {func() error {
			dev := newBlank(t)
			l, err := volume.NewLoader(dev, volume.FormatOptions{Recipient: newKey(t)}, volume.LoadOptions{Credential: newKey(t), NextIno: 9})
			ok(t, err)
			ok(t, l.Close())
			_, err = pinned.Open(dev, pinned.Options{Credential: newKey(t)})
			return err
		}, volume.ErrRestoring},
		"directory": {func() error { _, err := s.Open(uint64(vfs.RootIno)); return err }, vfs.ErrIsDir},
		"no inode":  {func() error { _, err := s.Open(99999); return err }, vfs.ErrStale},
	} {
		if err := c.do(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, opts := range []pinned.Options{{}, {Credential: newKey(t), Keys: keys}, {Keys: &pinned.Keys{}}} {
		if _, err := pinned.Open(h.Dev, opts); err == nil {
			t.Errorf("opened with %+v", opts)
		}
	}
	h.Close()
	o.Close()
}

// FuzzStateRef: what decodes is encoded as the same bytes.
func FuzzStateRef(f *testing.F) {
	h := newHistory(f, 8, 96<<20)
	_, err := h.V.CreateSnapshot("s")
	ok(f, err)
	p, err := pinned.Open(h.Dev, pinned.Options{Credential: newKey(f)})
	ok(f, err)
	s, err := p.Snapshot("s")
	ok(f, err)
	ref := s.Ref()
	b := ref.Append(nil)
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Add([]byte{})
	h.Close()
	f.Cleanup(p.Close)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := pinned.DecodeStateRef(b)
		if err != nil {
			if !errors.Is(err, pinned.ErrInvalidRef) {
				t.Fatal(err)
			}
			return
		}
		if again := r.Append(nil); !bytes.Equal(again, b) {
			t.Fatalf("%s is encoded as %s", hex.EncodeToString(b), hex.EncodeToString(again))
		}
		if x, err := p.At(r); err == nil && x.Ref() != r {
			t.Fatal("another state")
		}
	})
}
