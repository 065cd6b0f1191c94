package snapshot_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/create"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
	"github.com/sealvol/sealvol/pkg/snapshot/restore"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/snapshot/stored"
	"github.com/sealvol/sealvol/pkg/snapshot/verify"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// rig is a volume and a store.
type rig struct {
	t      *testing.T
	dev    *device.Mem
	v      *volume.Volume
	cred   crypto.Credential
	kek    crypto.Recipient
	store  *snapstore.Store
	tenant *snapstore.Tenant
	n      int
	last   *create.Report
	base   string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dev: device.NewMem(256 << 20)}
	k, err := crypto.GenerateKey()
	r.ok(err)
	t.Cleanup(k.Erase)
	kek := crypto.SecretCredential(k)
	r.cred, r.kek = kek, kek
	r.ok(volume.Format(r.dev, volume.FormatOptions{Recipient: kek}))
	r.v, err = volume.Open(r.dev, volume.Options{Credential: kek})
	r.ok(err)
	t.Cleanup(func() { _ = r.v.Close() })
	secret, err := crypto.GenerateKey()
	r.ok(err)
	defer secret.Erase()
	r.tenant, err = snapstore.NewTenant(secret)
	r.ok(err)
	t.Cleanup(r.tenant.Erase)
	r.store, _, err = snapstore.Create(t.Context(), chunkstore.NewMemory(), snapstore.Options{})
	r.ok(err)
	return r
}

func (r *rig) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// snapshot makes a local snapshot and stores it.
func (r *rig) snapshot(full bool) *create.Report {
	r.t.Helper()
	r.n++
	name := fmt.Sprint("s", r.n)
	_, err := r.v.CreateSnapshot(name)
	r.ok(err)
	src, err := pinned.Open(r.dev, pinned.Options{Credential: r.cred})
	r.ok(err)
	defer src.Close()
	to, err := src.Snapshot(name)
	r.ok(err)
	o := create.Options{Store: r.store.Objects(), StoreID: r.store.ID(), Format: r.store.Description(), Tenant: r.tenant.Keys, Suite: 1,
		Recipients: []crypto.Recipient{r.kek}, Label: create.Label{Name: name}, Writer: "test", Who: "test"}
	var from *pinned.State
	if r.last != nil && !full {
		o.Base = &create.Base{S: r.last.S, Open: r.open(r.last.S)}
		if r.base != "" {
			from, err = src.Snapshot(r.base)
			r.ok(err)
		}
	}
	rep, err := create.Run(r.t.Context(), src.Identity(), from, to, o)
	r.ok(err)
	if !full {
		r.last, r.base = rep, name
	}
	return rep
}

func (r *rig) open(s format.ID) func(ctx context.Context, h *format.Head, sealed []byte) (*manifest.Body, error) {
	return func(ctx context.Context, h *format.Head, sealed []byte) (*manifest.Body, error) {
		sk, err := r.store.SnapshotKey(ctx, s, r.cred)
		if err != nil {
			return nil, err
		}
		defer sk.Erase()
		keys, err := crypto.DeriveSnapshotKeys(crypto.Suite(h.Suite), crypto.UUID(s), sk)
		if err != nil {
			return nil, err
		}
		defer keys.Erase()
		return manifest.Open(keys, h, sealed, nil)
	}
}

// read opens a stored snapshot.
func (r *rig) read(s format.ID) *stored.Snapshot {
	r.t.Helper()
	h, sealed, err := commit.Whole(r.t.Context(), r.store.Objects(), s)
	r.ok(err)
	b, err := r.open(s)(r.t.Context(), h, sealed)
	r.ok(err)
	sn, err := stored.Open(r.store.Objects(), r.tenant.Keys, h, b)
	r.ok(err)
	r.t.Cleanup(sn.Close)
	return sn
}

func (r *rig) write(name string, data []byte, off uint64) vfs.Ino {
	r.t.Helper()
	a, err := r.v.Lookup(vfs.RootIno, name)
	if err != nil {
		a, err = r.v.Mknod(&vfs.Req{}, vfs.RootIno, name, 0o100644, 0)
		r.ok(err)
	}
	for len(data) > 0 {
		n, err := r.v.Write(&vfs.Req{}, a.Ino, off, data, false)
		r.ok(err)
		data, off = data[n:], off+uint64(n)
	}
	return a.Ino
}

func TestCreate(t *testing.T) {
	r := newRig(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	for i := range big {
		big[i] ^= byte(i >> 8)
	}
	ino := r.write("big", big, 0)
	small := r.write("small", []byte("hello"), 0)
	first := r.snapshot(false)
	t.Logf("%+v", first)
	r.write("big", []byte("changed"), 1<<20)
	copy(big[1<<20:], "changed")
	second := r.snapshot(false)
	t.Logf("%+v", second)
	if second.Full != "" || second.Read > 128<<10 {
		t.Errorf("the second snapshot read %d bytes; full: %q", second.Read, second.Full)
	}
	full := r.snapshot(true)
	if full.Content != second.Content {
		t.Error("a full snapshot and an incremental one of the same state differ")
	}
	sn := r.read(second.S)
	v := sn.View(t.Context())
	got := make([]byte, len(big))
	if n, err := v.Read(ino, 0, got); err != nil || n != len(big) || !bytes.Equal(got, big) {
		t.Errorf("read %d bytes: %v", n, err)
	}
	if n, err := v.Read(small, 0, got); err != nil || string(got[:n]) != "hello" {
		t.Errorf("read %q: %v", got[:n], err)
	}
	a, err := v.Lookup(vfs.RootIno, "big")
	if err != nil || a.Ino != ino {
		t.Errorf("lookup: %v, %v", a, err)
	}
	rep, err := verify.Run(t.Context(), sn.VerifySource(), verify.Options{Level: verify.Data, Problem: func(p verify.Problem) { t.Error(p) }})
	r.ok(err)
	t.Logf("%+v", rep)
}

// restore builds a volume from a stored snapshot, and returns a rig with it and the same store.
func (r *rig) restore(s format.ID) *rig {
	r.t.Helper()
	sn := r.read(s)
	to := &rig{t: r.t, dev: device.NewMem(384 << 20), cred: r.cred, kek: r.kek, store: r.store, tenant: r.tenant, n: 1000}
	next, err := sn.NextIno(r.t.Context())
	r.ok(err)
	l, err := volume.NewLoader(to.dev, volume.FormatOptions{Recipient: r.kek, Suite: 2}, volume.LoadOptions{Credential: r.cred, HashSeed: sn.Body.Seed, NextIno: next})
	r.ok(err)
	r.ok(restore.Run(r.t.Context(), sn.RestoreSource(), l, restore.Options{}))
	to.v, err = volume.Open(to.dev, volume.Options{Credential: r.cred})
	r.ok(err)
	r.t.Cleanup(func() { _ = to.v.Close() })
	return to
}

func TestRestore(t *testing.T) {
	r := newRig(t)
	data := make([]byte, 3<<20+777)
	for i := range data {
		data[i] = byte(i * i >> 7)
	}
	for i := range 300 {
		r.write(fmt.Sprint("file", i), data[i*100:i*100+i*i], 0)
	}
	big := r.write("big", data, 0)
	r.write("sparse", []byte("end"), 1<<30)
	r.ok(r.v.SetXattr(&vfs.Req{}, big, "user.long", data[:60000], 0))
	_, err := r.v.Symlink(&vfs.Req{}, vfs.RootIno, "link", "/to/nowhere")
	r.ok(err)
	_, err = r.v.Link(&vfs.Req{}, big, vfs.RootIno, "hard")
	r.ok(err)
	s := r.snapshot(false)
	to := r.restore(s.S)
	again := to.snapshot(true)
	if again.Content != s.Content {
		t.Error("the restored volume has another content")
	}
}

// TestRestoreStaleParent: a file whose last name was in a directory that is gone, and that had a
// higher number than all inodes that there are.
func TestRestoreStaleParent(t *testing.T) {
	r := newRig(t)
	ino := r.write("file", []byte("hello"), 0)
	d, err := r.v.Mkdir(&vfs.Req{}, vfs.RootIno, "dir", 0o755)
	r.ok(err)
	_, err = r.v.Link(&vfs.Req{}, ino, d.Ino, "link")
	r.ok(err)
	r.ok(r.v.Unlink(&vfs.Req{}, d.Ino, "link"))
	r.ok(r.v.Rmdir(&vfs.Req{}, vfs.RootIno, "dir"))
	r.v.Forget(d.Ino)
	s := r.snapshot(false)
	if again := r.restore(s.S).snapshot(true); again.Content != s.Content {
		t.Error("the restored volume has another content")
	}
}

func (r *rig) id(s string) format.ID {
	r.t.Helper()
	id, err := format.ParseID(s)
	r.ok(err)
	return id
}
