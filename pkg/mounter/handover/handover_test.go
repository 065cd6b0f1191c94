package handover

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter/pacing"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
)

func key(t testing.TB, b byte) *crypto.Key {
	t.Helper()
	k, err := crypto.NewKey(bytes.Repeat([]byte{b}, crypto.KeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Erase)
	return k
}

// refs returns references to two snapshots of a volume.
func refs(t testing.TB) (r [2]pinned.StateRef) {
	t.Helper()
	k := key(t, 9)
	cred := crypto.SecretCredential(k)
	dev := device.NewMem(64 << 20)
	if err := volume.Format(dev, volume.FormatOptions{Recipient: cred}); err != nil {
		t.Fatal(err)
	}
	v, err := volume.Open(dev, volume.Options{Credential: cred})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}()
	for i := range r {
		name := fmt.Sprintf("ses-%d", i)
		if _, err := v.CreateSnapshot(name); err != nil {
			t.Fatal(err)
		}
		ref, end, err := v.HoldSnapshot(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := v.DeleteSnapshot(name); !errors.Is(err, volume.ErrSnapshotInUse) {
			t.Errorf("a snapshot that is held was deleted: %v", err)
		}
		end()
		if err := v.DeleteSnapshot(name); err != nil {
			t.Error(err)
		}
		r[i] = ref
	}
	return r
}

func theVolume(t testing.TB) *Volume {
	t.Helper()
	r := refs(t)
	return &Volume{Source: r[0], Base: &r[1], Keys: &pinned.Keys{
		Identity: pinned.Identity{ID: crypto.UUID{1, 2}, Instance: crypto.UUID{3}, Suite: 2, HashSeed: [16]byte{4, 5}, DeviceBytes: 1 << 40},
		Epochs:   []crypto.EpochKey{{Epoch: 3, VMK: key(t, 3)}, {Epoch: 70000, VMK: key(t, 7)}}}}
}

// TestVolume: what is written is read, however it arrives, and each shorter message is an error that
// says who ended.
func TestVolume(t *testing.T) {
	v := theVolume(t)
	var b bytes.Buffer
	if err := v.Write(&b); err != nil {
		t.Fatal(err)
	}
	whole := bytes.Clone(b.Bytes())
	got, err := ReadVolume(iotest.OneByteReader(bytes.NewReader(whole)))
	if err != nil {
		t.Fatal(err)
	}
	defer got.Erase()
	if got.Keys.Identity != v.Keys.Identity || got.Source != v.Source || *got.Base != *v.Base || len(got.Keys.Epochs) != 2 {
		t.Errorf("%+v", got)
	}
	for i, e := range got.Keys.Epochs {
		if w := v.Keys.Epochs[i]; e.Epoch != w.Epoch || !bytes.Equal(e.VMK.Bytes(), w.VMK.Bytes()) {
			t.Errorf("epoch %d is not %d, or has another key", e.Epoch, w.Epoch)
		}
	}
	for n := range whole {
		if v, err := ReadVolume(bytes.NewReader(whole[:n])); err == nil || v != nil || !strings.Contains(err.Error(), "the mount server ended") && n < len(whole)-headBytes {
			t.Fatalf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
	v.Base = nil
	b.Reset()
	if err := v.Write(&b); err != nil {
		t.Fatal(err)
	}
	if got, err = ReadVolume(&b); err != nil || got.Base != nil {
		t.Errorf("%v", err)
	}
	got.Erase()
	got.Erase()
}

// TestSecrets is the same for what a caller sends.
func TestSecrets(t *testing.T) {
	secret, err := crypto.GenerateRecovery(crypto.Suite(1))
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Erase()
	public, err := secret.Recipient()
	if err != nil {
		t.Fatal(err)
	}
	s := &Secrets{Tenants: []Tenant{{1, key(t, 1)}, {9, key(t, 2)}}, KEKs: []*crypto.Key{key(t, 3)}, Recipients: []*crypto.RecoveryRecipient{public}}
	p, err := s.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	whole, err := io.ReadAll(p)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadSecrets(bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	defer got.Erase()
	if len(got.Tenants) != 2 || got.Tenants[1].Epoch != 9 || !bytes.Equal(got.Tenants[1].Secret.Bytes(), s.Tenants[1].Secret.Bytes()) ||
		len(got.KEKs) != 1 || !bytes.Equal(got.KEKs[0].Bytes(), s.KEKs[0].Bytes()) || len(got.Recipients) != 1 || got.Recipients[0].String() != public.String() {
		t.Errorf("%+v", got)
	}
	if text := fmt.Sprintf("%v %+v %#v", got, got, got); strings.Contains(text, "0x1, 0x1, 0x1") || strings.Contains(text, "1 1 1") {
		t.Errorf("printed: %s", text)
	}
	for n := range whole {
		if _, err := ReadSecrets(bytes.NewReader(whole[:n])); err == nil || !strings.Contains(err.Error(), "the caller ended") {
			t.Fatalf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
	for name, s := range map[string]*Secrets{
		"nothing":   {},
		"no key":    {Tenants: s.Tenants},
		"no tenant": {KEKs: s.KEKs},
		"twice":     {Tenants: []Tenant{{1, key(t, 1)}, {1, key(t, 2)}}, KEKs: s.KEKs},
	} {
		p, err := s.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ReadSecrets(p); err == nil {
			t.Errorf("%s: accepted", name)
		}
		p.Close()
	}
}

func TestLoad(t *testing.T) {
	var b bytes.Buffer
	want := pacing.Load{Queue: 70, Kinds: [pacing.Kinds]pacing.Requests{{Count: 1 << 40, Micros: 12345}, {Count: 1, Micros: 2}, {Count: 3, Micros: 4}, {Count: 5, Micros: 1 << 50}}}
	if err := WriteLoad(&b, want); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadLoad(&b); got != want || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := ReadLoad(&b); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
	if err := writeRecord(&b, kindKEK, 0, make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadLoad(&b); !errors.Is(err, ErrFormat) {
		t.Errorf("%v", err)
	}
}

// FuzzRead: whatever arrives, nothing panics, and what is accepted is written as it was read.
func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	if err := theVolume(f).Write(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.Clone(b.Bytes()))
	b.Reset()
	s := &Secrets{Tenants: []Tenant{{1, key(f, 1)}}, KEKs: []*crypto.Key{key(f, 3)}}
	if err := s.write(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		if v, err := ReadVolume(bytes.NewReader(in)); err == nil {
			var out bytes.Buffer
			if err := v.Write(&out); err != nil {
				t.Error(err)
			}
			again, err := ReadVolume(&out)
			if err != nil || again.Keys.Identity != v.Keys.Identity || again.Source != v.Source {
				t.Errorf("%v", err)
			}
			again.Erase()
			v.Erase()
		}
		if s, err := ReadSecrets(bytes.NewReader(in)); err == nil {
			var out bytes.Buffer
			if err := s.write(&out); err != nil {
				t.Error(err)
			}
			s.Erase()
		}
		_, _ = ReadLoad(bytes.NewReader(in))
	})
}
