package convert

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/doublecrypt"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// newSource creates a volume of format v1 with some files.
func newSource(t *testing.T) vfs.FS {
	t.Helper()
	key, err := crypto.NewDoublecryptKey(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(key.Erase)
	dev := device.NewMem(8 << 20)
	c := doublecrypt.NewCore(dev, key, doublecrypt.CoreOptions{BlockBytes: 4096})
	if err := c.InitFilesystem(); err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		dir := fmt.Sprint("dir", i%3)
		err := c.CreateDirectory(dir)
		if i < 3 && err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("%s/file%d", dir, i)
		if err := errors.Join(c.CreateFile(name), c.WriteFile(name, 0, bytes.Repeat([]byte(name), 20_000))); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	v, err := doublecrypt.Open(dev, key, doublecrypt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func newCredential(t *testing.T) interface {
	crypto.Credential
	crypto.Recipient
} {
	t.Helper()
	k, err := crypto.NewKey(bytes.Repeat([]byte{2}, 32))
	if err != nil {
		t.Fatal(err)
	}
	c := crypto.SecretCredential(k)
	t.Cleanup(c.Erase)
	return c
}

// TestConvertResumes loses power again and again during a conversion. Each run continues the
// previous one. When a run completes, both volumes must be equal.
func TestConvertResumes(t *testing.T) {
	src, cred := newSource(t), newCredential(t)
	dev := device.NewMem(128 << 20)
	if err := volume.Format(dev, volume.FormatOptions{Recipient: cred}); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	open := func(memory int) (*volume.Volume, error) {
		return volume.Open(dev, volume.Options{Credential: cred, Memory: memory, CommitInterval: -1})
	}
	cuts := 0
	for n := 1; ; n += 1 + n/4 {
		dev.CutAfter(n)
		v, err := open(32 << 20)
		if err == nil {
			err = newConverter(src).copyInto(v, "mark")
			err = errors.Join(err, v.Close())
		}
		if err == nil {
			break
		}
		cuts++
		dev = dev.Crash(device.CrashMode(cuts%3), rng)
	}
	if cuts < 4 {
		t.Errorf("cut only %d times", cuts)
	}
	dev = dev.Clone() // without a power loss
	v, err := open(0)
	if err != nil {
		t.Fatal(err)
	}
	differ(t, src, v)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

func newConverter(src vfs.FS) *converter {
	return &converter{src: src, buf: make([]byte, 100_000), other: make([]byte, 100_000)}
}

// differ changes a complete copy, so that it differs from its source. The verification must find
// that, and the next run must copy the file again and succeed.
func differ(t *testing.T, src vfs.FS, v *volume.Volume) {
	t.Helper()
	if err := newConverter(src).copyInto(v, "other"); !errors.Is(err, ErrOther) {
		t.Errorf("of another volume: %v", err)
	}
	d, err := v.Lookup(vfs.RootIno, "dir0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := v.Lookup(d.Ino, "file0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Write(owner, f.Ino, 5000, []byte("x"), false); err != nil {
		t.Fatal(err)
	}
	if _, err := v.SetAttr(owner, f.Ino, &vfs.SetAttr{Mtime: &f.Mtime}); err != nil {
		t.Fatal(err)
	}
	if err := newConverter(src).verify(v); !errors.Is(err, ErrDiffers) {
		t.Errorf("verified: %v", err)
	}
	if err := newConverter(src).copyInto(v, "mark"); err != nil {
		t.Fatal(err)
	}
	if err := newConverter(src).verify(v); err != nil {
		t.Error(err)
	}
	if _, err := v.GetXattr(vfs.RootIno, Mark); !errors.Is(err, vfs.ErrNoXattr) {
		t.Errorf("the mark: %v", err)
	}
	if err := newConverter(src).copyInto(v, "mark"); !errors.Is(err, volume.ErrNotEmpty) {
		t.Errorf("over a finished one: %v", err)
	}
}
