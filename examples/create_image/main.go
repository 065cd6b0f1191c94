// Command create_image creates an image file of format v1 with 64 blocks of 64 KiB, writes files
// and a directory into it, and lists them. The example of the same name in the reference
// implementation does the same, and so does c/create_image.c with the C library.
package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/doublecrypt"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: create_image IMAGE")
		os.Exit(2)
	}
	if err := createImage(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "create_image:", err)
		os.Exit(1)
	}
}

func createImage(path string) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(64*doublecrypt.DefaultBlock), f.Close()); err != nil {
		return err
	}
	dev, err := device.Open(path, device.OpenOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	if err := doublecrypt.FillRandom(dev, nil, nil); err != nil {
		return err
	}
	master := make([]byte, crypto.KeyBytes) // a real program must store it: without it, the image is lost
	rand.Read(master)
	key, err := crypto.NewDoublecryptKey(master)
	if err != nil {
		return err
	}
	defer key.Erase()

	fs := doublecrypt.NewCore(dev, key, doublecrypt.CoreOptions{})
	defer func() { err = errors.Join(err, fs.Close()) }()
	if err := fs.InitFilesystem(); err != nil {
		return err
	}
	if err := fs.CreateDirectory("notes"); err != nil {
		return err
	}
	pattern := make([]byte, 200_000) // spans several blocks
	for i := range pattern {
		pattern[i] = byte(i)
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{"hello.txt", []byte("An encrypted image.\n")}, {"pattern.bin", pattern}, {"notes/secret.txt", []byte("Nobody else reads this.\n")}} {
		if err := fs.CreateFile(f.name); err != nil {
			return err
		}
		if err := fs.WriteFile(f.name, 0, f.data); err != nil {
			return err
		}
	}
	if err := fs.Sync(); err != nil {
		return err
	}
	for _, dir := range []string{"", "notes"} {
		entries, err := fs.ListDirectory(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if _, err := fmt.Fprintf(os.Stdout, "/%s: %s, %d bytes\n", dir, e.Name, e.Size); err != nil {
				return err
			}
		}
	}
	return nil
}
