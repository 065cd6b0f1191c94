package trial

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/create"
	"github.com/sealvol/sealvol/pkg/snapshot/reading"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/snapshot/verify"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/volumetest"
)

// rig is a stored snapshot.
type rig struct {
	t      *testing.T
	store  *snapstore.Store
	sn     *reading.Snapshot
	tenant *snapstore.Tenant
	inos   map[string]vfs.Ino
}

func (r *rig) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// newRig stores what makeFiles has made, and random operations.
func newRig(t *testing.T, steps int) *rig {
	t.Helper()
	r := &rig{t: t, inos: map[string]vfs.Ino{}}
	h := volumetest.NewHistory(t, rand.Uint64(), 96<<20)
	defer h.Close()
	h.Steps(steps)
	r.makeFiles(h.V)
	_, err := h.V.CreateSnapshot("s")
	r.ok(err)
	secret, err := crypto.GenerateKey()
	r.ok(err)
	defer secret.Erase()
	r.tenant, err = snapstore.NewTenant(secret)
	r.ok(err)
	t.Cleanup(r.tenant.Erase)
	r.store, _, err = snapstore.Create(t.Context(), chunkstore.NewMemory(), snapstore.Options{ChunkBytes: 16 << 10, PackBytes: 1 << 20})
	r.ok(err)
	key := volumetest.NewKey(t)
	src, err := pinned.Open(h.Dev, pinned.Options{Credential: h.Key, Memory: 1 << 20})
	r.ok(err)
	defer src.Close()
	to, err := src.Snapshot("s")
	r.ok(err)
	rep, err := create.Run(t.Context(), src.Identity(), nil, to, create.Options{Store: r.store.Objects(), StoreID: r.store.ID(), Format: r.store.Description(),
		Tenant: r.tenant.Keys, Suite: 1, Recipients: []crypto.Recipient{key}, Writer: "test", Who: "test"})
	r.ok(err)
	found, want, err := r.store.Find(t.Context(), r.tenant, rep.S.String())
	r.ok(err)
	r.sn, err = reading.Open(t.Context(), r.store, found, reading.Options{Tenant: r.tenant, Credential: key, Want: want, Who: "test"})
	r.ok(err)
	t.Cleanup(r.sn.Close)
	return r
}

var req = &vfs.Req{}

// makeFiles makes files of each kind.
func (r *rig) makeFiles(v vfs.FS) {
	top, err := v.Mkdir(req, vfs.RootIno, "top", 0o755)
	r.ok(err)
	r.inos["top"] = top.Ino
	sub, err := v.Mkdir(req, top.Ino, "sub", 0o700)
	r.ok(err)
	r.inos["sub"] = sub.Ino
	for name, parts := range map[string][][2]int{"small": {{0, 100}}, "large": {{0, 300_000}}, "sparse": {{0, 5000}, {400_000, 5000}}, "empty": nil} {
		a, err := v.Mknod(req, top.Ino, name, 0o100640, 0)
		r.ok(err)
		r.inos[name] = a.Ino
		for _, p := range parts {
			r.write(v, a.Ino, uint64(p[0]), bytes.Repeat([]byte(name), p[1]/len(name)))
		}
	}
	zeros, err := v.Mknod(req, top.Ino, "zeros", 0o100640, 0)
	r.ok(err)
	r.inos["zeros"] = zeros.Ino
	size := uint64(1 << 20)
	_, err = v.SetAttr(req, zeros.Ino, &vfs.SetAttr{Size: &size})
	r.ok(err)
	link, err := v.Symlink(req, top.Ino, "link", "target")
	r.ok(err)
	r.inos["link"] = link.Ino
	_, err = v.Link(req, r.inos["small"], sub.Ino, "hard")
	r.ok(err)
	r.ok(v.SetXattr(req, r.inos["small"], "user.a", []byte("value"), 0))
}

func (r *rig) write(v vfs.FS, ino vfs.Ino, off uint64, b []byte) {
	r.t.Helper()
	for len(b) > 0 {
		n, err := v.Write(req, ino, off, b, false)
		r.ok(err)
		b, off = b[n:], off+uint64(n)
	}
}

// run makes a trial, and returns the problems.
func (r *rig) run(spoil func(v *volume.Volume)) (string, error) {
	r.t.Helper()
	var found strings.Builder
	dev := device.NewMem(160 << 20)
	x, err := Restore(r.t.Context(), r.sn.Snapshot, dev, Options{Store: r.store.Description(), Tenant: r.tenant.Keys, Memory: 32 << 20,
		Problem: func(p verify.Problem) { fmt.Fprintln(&found, p.Ino, p.Err) }})
	r.ok(err)
	defer x.Close()
	if spoil != nil {
		v, err := volume.Open(dev, volume.Options{Credential: x.Credential(), CommitInterval: -1})
		r.ok(err)
		spoil(v)
		r.ok(v.Close())
	}
	err = x.Compare(r.t.Context())
	return found.String(), err
}

// TestExplainNothing: the comparison that explains finds nothing where there is nothing.
func TestExplainNothing(t *testing.T) {
	for range 3 {
		r := newRig(t, 300)
		dev := device.NewMem(160 << 20)
		x, err := Restore(t.Context(), r.sn.Snapshot, dev, Options{Store: r.store.Description(), Tenant: r.tenant.Keys, Problem: func(p verify.Problem) { t.Error(p) }})
		r.ok(err)
		r.ok(x.Compare(t.Context()))
		r.ok(x.tell(t.Context()))
		x.Close()
	}
}

// TestExplain: whatever differs in a restored volume is found, with its inode.
func TestExplain(t *testing.T) {
	r := newRig(t, 0)
	ino := func(name string) vfs.Ino { return r.inos[name] }
	for what, c := range map[string]struct {
		spoil func(v *volume.Volume) error
		want  []string // of inodes
	}{
		"a byte": {func(v *volume.Volume) error {
			return r.keepTimes(v, "large", func() { r.write(v, ino("large"), 200_000, []byte{0}) })
		}, []string{"large its content at 196608 differs"}},
		"a byte of a small file": {func(v *volume.Volume) error {
			return r.keepTimes(v, "small", func() { r.write(v, ino("small"), 50, []byte{0}) })
		},
			[]string{"small its content of 100 bytes differs"}},
		"data in a hole": {func(v *volume.Volume) error {
			return r.keepTimes(v, "sparse", func() { r.write(v, ino("sparse"), 100_000, []byte{1}) })
		}, []string{"sparse it has data at 98304"}},
		"data in zeros": {func(v *volume.Volume) error {
			return r.keepTimes(v, "zeros", func() { r.write(v, ino("zeros"), 0, []byte{1}) })
		}, []string{"zeros it has data at 0"}},
		"a hole in data": {func(v *volume.Volume) error {
			return r.keepTimes(v, "large", func() { r.ok(v.Fallocate(req, ino("large"), vfs.FallocPunchHole|vfs.FallocKeepSize, 16384, 16384)) })
		}, []string{"large its content at 16384 differs"}},
		"a length": {func(v *volume.Volume) error {
			return r.set(v, "empty", func(s *vfs.SetAttr) { n := uint64(5); s.Size = &n })
		}, []string{"empty its attributes"}},
		"a mode": {func(v *volume.Volume) error {
			return r.set(v, "large", func(s *vfs.SetAttr) { n := uint32(0o600); s.Mode = &n })
		}, []string{"large its attributes"}},
		"an owner": {func(v *volume.Volume) error {
			return r.set(v, "sub", func(s *vfs.SetAttr) { n := uint32(7); s.UID = &n })
		}, []string{"sub its attributes"}},
		"a time": {func(v *volume.Volume) error {
			return r.set(v, "link", func(s *vfs.SetAttr) { s.Mtime = &vfs.Timespec{Sec: 1} })
		}, []string{"link its attributes"}},
		"flags": {func(v *volume.Volume) error { return v.SetFlags(req, ino("large"), vfs.FlagNodump) },
			[]string{"large its attributes", "large its flags are 0x40"}},
		"an attribute":          {func(v *volume.Volume) error { return v.SetXattr(req, ino("small"), "user.a", []byte("other"), 0) }, []string{"small its attributes", `small the value of attribute "user.a"`}},
		"an attribute too much": {func(v *volume.Volume) error { return v.SetXattr(req, ino("top"), "user.b", nil, 0) }, []string{"top its attributes", `top it has the attribute "user.b"`}},
		"an attribute too few":  {func(v *volume.Volume) error { return v.RemoveXattr(req, ino("small"), "user.a") }, []string{"small its attributes", `small attribute "user.a"`}},
		"a name":                {func(v *volume.Volume) error { return v.Rename(req, ino("top"), "link", ino("top"), "renamed", 0) }, []string{`top the name "link" is missing`, `top it has the name "renamed"`}},
		"a name elsewhere":      {func(v *volume.Volume) error { return v.Rename(req, ino("sub"), "hard", ino("top"), "hard", 0) }, []string{`sub the name "hard" is missing`, `top it has the name "hard"`}},
		"another parent": {func(v *volume.Volume) error { return v.Rename(req, ino("top"), "sub", vfs.RootIno, "sub", 0) },
			[]string{`top the name "sub" is missing`, "sub its parent is directory 1"}},
		"a file too few":  {func(v *volume.Volume) error { return v.Unlink(req, ino("top"), "zeros") }, []string{`top the name "zeros" is missing`, "zeros inode"}},
		"a file too much": {func(v *volume.Volume) error { _, err := v.Mknod(req, ino("sub"), "more", 0o100600, 0); return err }, []string{`sub it has the name "more"`}},
		"a target": {func(v *volume.Volume) error {
			r.ok(v.Unlink(req, ino("top"), "link"))
			_, err := v.Symlink(req, ino("top"), "link", "another")
			return err
		}, []string{`top it has the name "link" of inode`}},
	} {
		found, err := r.run(func(v *volume.Volume) { r.ok(c.spoil(v)) })
		if !errors.Is(err, ErrDiffers) {
			t.Errorf("%s: %v", what, err)
		}
		for _, w := range c.want {
			name, text, _ := strings.Cut(w, " ")
			line := fmt.Sprintf("%d inode %d: the restored volume differs from the snapshot: %s", ino(name), ino(name), text)
			if ino(name) == 0 {
				line = w
			}
			if !strings.Contains(found, line) {
				t.Errorf("%s: %s\nwant: %s", what, found, line)
			}
		}
	}
}

// set changes attributes.
func (r *rig) set(v *volume.Volume, name string, change func(s *vfs.SetAttr)) error {
	var s vfs.SetAttr
	change(&s)
	_, err := v.SetAttr(req, r.inos[name], &s)
	return err
}

// keepTimes restores the times of a file after a change of its content.
func (r *rig) keepTimes(v *volume.Volume, name string, change func()) error {
	a, err := v.GetAttr(r.inos[name])
	r.ok(err)
	change()
	_, err = v.SetAttr(req, r.inos[name], &vfs.SetAttr{Atime: &a.Atime, Mtime: &a.Mtime, Ctime: &a.Ctime})
	return err
}
