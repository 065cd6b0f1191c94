package main

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

// convertSource makes a volume of format v1 with some files.
func convertSource(t *testing.T) vfs.FS {
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

func convertCredential(t *testing.T) interface {
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

// TestConvertResumes cuts the power again and again while converting. Each run goes
// on from what it finds, until one ends; then both are the same.
func TestConvertResumes(t *testing.T) {
	src, cred := convertSource(t), convertCredential(t)
	dev := device.NewMem(128 << 20)
	if err := volume.Format(dev, volume.FormatOptions{Recipient: cred}); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	newConverter := func() *converter {
		return &converter{src: src, buf: make([]byte, 100_000), other: make([]byte, 100_000)}
	}
	open := func(memory int) (*volume.Volume, error) {
		return volume.Open(dev, volume.Options{Credential: cred, Memory: memory, CommitInterval: -1})
	}
	cuts := 0
	for n := 1; ; n += 1 + n/4 {
		dev.CutAfter(n)
		v, err := open(32 << 20)
		if err == nil {
			err = newConverter().copyInto(v, "mark")
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
	dev = dev.Clone() // which is not cut any more
	v, err := open(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := newConverter().copyInto(v, "other"); !errors.Is(err, errOtherConversion) {
		t.Errorf("of another volume: %v", err)
	}
	// A copy that differs is found, made anew by the next run, and accepted then.
	d, err := v.Lookup(vfs.RootIno, "dir0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := v.Lookup(d.Ino, "file0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Write(convertReq, f.Ino, 5000, []byte("x"), false); err != nil {
		t.Fatal(err)
	}
	if _, err := v.SetAttr(convertReq, f.Ino, &vfs.SetAttr{Mtime: &f.Mtime}); err != nil {
		t.Fatal(err)
	}
	if err := newConverter().verify(v); !errors.Is(err, errDiffers) {
		t.Errorf("verified: %v", err)
	}
	if err := newConverter().copyInto(v, "mark"); err != nil {
		t.Fatal(err)
	}
	if err := newConverter().verify(v); err != nil {
		t.Error(err)
	}
	if _, err := v.GetXattr(vfs.RootIno, convertMark); !errors.Is(err, vfs.ErrNoXattr) {
		t.Errorf("the mark: %v", err)
	}
	if err := newConverter().copyInto(v, "mark"); !errors.Is(err, volume.ErrNotEmpty) {
		t.Errorf("over a finished one: %v", err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}
