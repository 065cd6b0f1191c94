package main

import (
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// restoring formats a file as a volume whose restore was interrupted, with a key from a file.
func restoring(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: restoring KEY FILE")
	}
	k, err := readKey(ts.MkAbs(args[0]))
	ts.Check(err)
	cred := crypto.SecretCredential(k)
	defer cred.Erase()
	dev, err := device.Open(ts.MkAbs(args[1]), device.OpenOptions{})
	ts.Check(err)
	defer discard(dev)
	l, err := volume.NewLoader(dev, volume.FormatOptions{Recipient: cred}, volume.LoadOptions{Credential: cred, NextIno: 3})
	ts.Check(err)
	ts.Check(l.Inode(1, &logical.Inode{Mode: 0o040755, Nlink: 2, Size: 1, Parent: 1}))
	ts.Check(l.Commit([]byte("position")))
	ts.Check(l.Close())
}
