package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/restore"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/snapshot/stored"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

// restorer is one process that restores a whole stored snapshot to a device.
type restorer struct {
	device, keyFile, tenantFile, dir, name, profile string
}

// runRestore is `bench restore`.
func runRestore(args []string) (err error) {
	r := &restorer{}
	f := flag.NewFlagSet("restore", flag.ContinueOnError)
	f.StringVar(&r.device, "device", "", "device or image of the new volume")
	f.StringVar(&r.keyFile, "key-file", "", "key")
	f.StringVar(&r.tenantFile, "tenant-file", "", "tenant secret")
	f.StringVar(&r.dir, "store", "", "directory of the store")
	f.StringVar(&r.name, "name", snapstore.Latest, "snapshot")
	f.StringVar(&r.profile, "profile", "", "write profiles to files that begin so")
	if err := f.Parse(args); err != nil {
		return err
	}
	if r.profile == "" {
		return r.run(context.Background())
	}
	p := &profiler{}
	if err := p.command("profile " + r.profile); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.command("stop")) }()
	return r.run(context.Background())
}

func (r *restorer) run(ctx context.Context) error {
	key, err := keyOf(r.keyFile)
	if err != nil {
		return err
	}
	defer key.Erase()
	secret, err := keyOf(r.tenantFile)
	if err != nil {
		return err
	}
	defer secret.Erase()
	tenant, err := snapstore.NewTenant(secret)
	if err != nil {
		return err
	}
	defer tenant.Erase()
	objects, err := chunkstore.OpenDir(r.dir)
	if err != nil {
		return err
	}
	store, err := snapstore.Open(ctx, objects)
	if err != nil {
		return err
	}
	sn, err := r.open(ctx, store, tenant, crypto.SecretCredential(key))
	if err != nil {
		return err
	}
	defer sn.Close()
	return r.restore(ctx, sn, crypto.SecretCredential(key))
}

func (r *restorer) open(ctx context.Context, store *snapstore.Store, tenant *snapstore.Tenant, cred crypto.Credential) (*stored.Snapshot, error) {
	found, _, err := store.Find(ctx, tenant, r.name)
	if err != nil {
		return nil, err
	}
	sk, err := store.SnapshotKey(ctx, found.ID, cred)
	if err != nil {
		return nil, err
	}
	defer sk.Erase()
	m, err := store.Manifest(ctx, found, nil, sk)
	if err != nil {
		return nil, err
	}
	return stored.Open(store.Objects(), tenant.Keys, m.Head, m.Body)
}

func (r *restorer) restore(ctx context.Context, sn *stored.Snapshot, kek secretCredential) error {
	next, err := sn.NextIno(ctx)
	if err != nil {
		return err
	}
	d, err := device.Open(r.device, device.OpenOptions{})
	if err != nil {
		return err
	}
	defer closeDevice(d)
	l, err := volume.NewLoader(d, volume.FormatOptions{Recipient: kek, Force: true}, volume.LoadOptions{Credential: kek, HashSeed: sn.Body.Seed, NextIno: next})
	if err != nil {
		return err
	}
	return errors.Join(restore.Run(ctx, sn.RestoreSource(), l, restore.Options{}), l.Close())
}

// secretCredential is what crypto.SecretCredential returns: it opens slots and gets them.
type secretCredential interface {
	crypto.Credential
	crypto.Recipient
}

// keyOf reads a key of 64 hexadecimal digits.
func keyOf(path string) (*crypto.Key, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return crypto.NewKey(b)
}
