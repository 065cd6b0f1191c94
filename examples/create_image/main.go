// Command create_image makes an image file of format v1, puts files into it and
// lists them, as c/create_image.c does through the C library.
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
	master := make([]byte, crypto.KeyBytes) // a real program keeps it: without it the image is lost
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
	if err := fs.CreateDirectory("documents"); err != nil {
		return err
	}
	for name, text := range map[string]string{"readme.txt": "An encrypted image.\n", "documents/notes.txt": "Nobody else reads this.\n"} {
		if err := fs.CreateFile(name); err != nil {
			return err
		}
		if err := fs.WriteFile(name, 0, []byte(text)); err != nil {
			return err
		}
	}
	if err := fs.Sync(); err != nil {
		return err
	}
	for _, dir := range []string{"", "documents"} {
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
