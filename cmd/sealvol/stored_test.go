package main

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore/snapstoretest"
)

// stores puts a snapshot into a store, without a volume:
//
//	stores VAR URL TENANT-FILE KEY-FILE [name=N] [claim=C] [volume=UUID] [created=TIME] [tag=K=V]... [unfinished=yes]
//
// and sets $VAR to its id.
func stores(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 {
		ts.Fatalf("usage: stores VAR URL TENANT-FILE KEY-FILE [NAME=VALUE]...")
	}
	ctx, cancel := context.WithTimeout(context.Background(), scriptDeadline)
	defer cancel()
	o := snapstoretest.Snapshot{Tags: map[string]string{}}
	for _, a := range args[4:] {
		name, value, _ := strings.Cut(a, "=")
		switch name {
		case "name":
			o.Name = value
		case "claim":
			o.Claim = value
		case "volume":
			u, err := crypto.ParseUUID(value)
			ts.Check(err)
			o.Volume = [16]byte(u)
		case "created":
			t, err := time.Parse(time.RFC3339, value)
			ts.Check(err)
			o.Created = t
		case "tag":
			k, v, _ := strings.Cut(value, "=")
			o.Tags[k] = v
		case "unfinished":
			o.Unfinished = true
		default:
			ts.Fatalf("stores: %s", a)
		}
	}
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} { // of the script's S3
		if v := ts.Getenv(name); v != "" {
			ts.Check(os.Setenv(name, v))
		}
	}
	store, err := chunkstore.Open(ctx, args[1], false)
	ts.Check(err)
	defer discard(store)
	tenant, err := readTenant(ts.MkAbs(args[2]))
	ts.Check(err)
	defer tenant.Erase()
	k, err := readKey(ts.MkAbs(args[3]))
	ts.Check(err)
	kek := crypto.SecretCredential(k)
	defer kek.Erase()
	m, err := snapstoretest.Make(ctx, store, tenant, o, kek)
	ts.Check(err)
	m.Key.Erase()
	ts.Setenv(args[0], m.ID.String())
}
