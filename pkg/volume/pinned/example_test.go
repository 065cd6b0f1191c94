package pinned_test

import (
	"bytes"
	"context"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// printer prints facts.
type printer struct{}

func (printer) Inode(ino uint64, n *logical.Inode) error {
	if n == nil {
		fmt.Printf("inode %d is gone\n", ino)
		return nil
	}
	fmt.Printf("inode %d: mode %o\n", ino, n.Mode)
	return nil
}

func (printer) Inline(ino uint64, b []byte) error {
	fmt.Printf("inode %d contains %q\n", ino, b)
	return nil
}

func (printer) Xattr(uint64, uint64, *logical.Xattr) error { return nil }

func (printer) Name(dir, _ uint64, n *logical.Name) error {
	fmt.Printf("directory %d: %q is inode %d\n", dir, n.Name, n.Ino)
	return nil
}

func (printer) Data(d *pinned.DataChange) error {
	for r, err := range d.Dirty {
		if err != nil {
			return err
		}
		fmt.Printf("inode %d of %d bytes: %d bytes at %d\n", d.Ino, d.Size, r.Len, r.Off)
	}
	return nil
}

// What a snapshot holds is read while the volume is in use.
func Example() {
	dev := device.NewMem(64 << 20) // device.Open with ReadOnly and Shared has files and block devices
	kek, err := crypto.NewKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		fmt.Println(err)
		return
	}
	key := crypto.SecretCredential(kek)
	defer key.Erase()
	if err := makeSnapshot(dev, key); err != nil {
		fmt.Println(err)
		return
	}

	p, err := pinned.Open(dev, pinned.Options{Credential: key})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Close()
	s, err := p.Snapshot("monday")
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := pinned.Diff(context.Background(), nil, s, printer{}); err != nil {
		fmt.Println(err)
	}
	// Unordered output:
	// inode 1: mode 40755
	// directory 1: "big" is inode 3
	// directory 1: "small" is inode 2
	// inode 2: mode 100644
	// inode 2 contains "content"
	// inode 3: mode 100644
	// inode 3 of 8199 bytes: 7 bytes at 8192
}

// makeSnapshot formats a volume with two files.
func makeSnapshot(dev device.Device, key interface {
	crypto.Credential
	crypto.Recipient
}) error {
	if err := volume.Format(dev, volume.FormatOptions{Recipient: key}); err != nil {
		return err
	}
	v, err := volume.Open(dev, volume.Options{Credential: key})
	if err != nil {
		return err
	}
	req := &vfs.Req{}
	for i, name := range []string{"small", "big"} {
		a, err := v.Mknod(req, vfs.RootIno, name, 0o100644, 0)
		if err != nil {
			return err
		}
		if _, err := v.Write(req, a.Ino, uint64(i)*8192, []byte("content"), false); err != nil {
			return err
		}
	}
	if _, err := v.CreateSnapshot("monday"); err != nil {
		return err
	}
	return v.Close()
}
