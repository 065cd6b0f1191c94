package snapshot_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/snapshot/fact"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/snapshot/verify"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/namehash"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/volumetest"
)

// structureRig is a stored snapshot of few files, whose facts tests change.
type structureRig struct {
	*historyRig
	facts items
	hash  namehash.Hasher
	inos  map[string]uint64
}

// TestStructure: verify of metadata finds all that makes a restore refuse a snapshot, and says which
// inode it is. The restore refuses each of these.
func TestStructure(t *testing.T) {
	h := volumetest.NewHistory(t, 7, 96<<20)
	r := &structureRig{historyRig: newHistoryRig(t, h, snapstore.Options{ChunkBytes: 16 << 10, PackBytes: 1 << 20}), inos: map[string]uint64{}}
	r.makeFiles()
	_, err := h.V.CreateSnapshot("s")
	r.ok(err)
	rep := r.put("", "s", r.options(nil))
	sn := r.read(rep.S)
	r.hash, r.facts = namehash.New(sn.Body.Seed), r.items(sn)
	whole := maps.Clone(r.facts)
	for _, c := range []struct {
		what   string
		change func()
		want   string // in a problem
	}{
		{"nothing", func() {}, ""},
		{"a name of nothing", func() { delete(r.facts, r.key("file", logical.InodeType)) }, "inode {file}: invalid content of a volume: there is a fact of type 2, and no inode"},
		{"an inode without a name", func() { r.deleteName("dir", "alone") }, "directory {dir} has 1 names"},
		{"one name too few", func() { r.deleteName("/", "hard") }, "directory 1 has 4 names"},
		{"a link count", func() { r.inode("alone", func(n *logical.Inode) { n.Nlink = 9 }) }, "inode {alone} of mode 0100600 has a link count of 9"},
		{"a name of another type", func() { r.name("dir", "alone", r.inos["alone"], 0o120000) }, "inode {alone} of mode 0100600 has a link count of 1, but its names do not match"},
		{"two names of a directory", func() {
			r.name("/", "again", r.inos["sub"], logical.TypeDir)
			r.inode("/", func(n *logical.Inode) { n.Size++; n.Nlink++ })
		}, "inode {sub} of mode"},
		{"another parent", func() { r.inode("sub", func(n *logical.Inode) { n.Parent = 1 }) }, "the name of directory {sub} is not in its parent"},
		{"a cycle", func() { r.moveDir("dir", "/", "deep") }, "3 directories are not below"},
		{"two cycles", func() {
			r.moveDir("dir", "/", "deep")
			r.moveDir("other", "/", "down")
		}, "5 directories are not below"},
		{"no root", func() { delete(r.facts, logical.Key{Ino: 1, Type: logical.InodeType}) }, "inode 1: "},
		{"a name twice", func() {
			k := r.nameKey("/", "file", 1)
			r.facts[k] = r.facts[r.nameKey("/", "file", 0)]
			r.inode("/", func(n *logical.Inode) { n.Size++ })
			r.inode("file", func(n *logical.Inode) { n.Nlink++ })
		}, `inode 1: invalid content of a volume: the name "file" is there twice`},
		{"a name elsewhere", func() {
			k := r.nameKey("/", "file", 0)
			r.facts[logical.Key{Ino: 1, Type: logical.NameType, Sub: k.Sub ^ 1<<20}] = r.facts[k]
			delete(r.facts, k)
		}, `inode 1: invalid content of a volume: the name "file" has the number`},
		{"an attribute elsewhere", func() {
			first, _ := r.hash.XattrSubs("user.a")
			k := logical.Key{Ino: r.inos["file"], Type: logical.XattrType, Sub: first}
			r.facts[logical.Key{Ino: k.Ino, Type: k.Type, Sub: first + 256}] = r.facts[k]
		}, `inode {file}: invalid content of a volume: the name "user.a" is there twice`},
		{"no ACL", func() {
			b, err := fact.AppendXattr(nil, &logical.Xattr{Name: "system.posix_acl_access", Value: []byte("none")})
			r.ok(err)
			first, _ := r.hash.XattrSubs("system.posix_acl_access")
			r.facts[logical.Key{Ino: r.inos["file"], Type: logical.XattrType, Sub: first}] = b
		}, "has no valid ACL"},
		{"an attribute that is no first piece", func() {
			first, _ := r.hash.XattrSubs("user.a")
			k := logical.Key{Ino: r.inos["file"], Type: logical.XattrType, Sub: first}
			r.facts[logical.Key{Ino: k.Ino, Type: k.Type, Sub: first + 1}] = r.facts[k]
			delete(r.facts, k)
		}, `inode {file}: invalid content of a volume: the name "user.a" has the number`},
		{"names of attributes", func() {
			for i := range 300 {
				x := logical.Xattr{Name: fmt.Sprintf("user.%0250d", i)}
				b, err := fact.AppendXattr(nil, &x)
				r.ok(err)
				first, _ := r.hash.XattrSubs(x.Name)
				r.facts[logical.Key{Ino: r.inos["file"], Type: logical.XattrType, Sub: first}] = b
			}
		}, "have more than 65536 bytes"},
		{"flags of a link", func() { r.inode("link", func(n *logical.Inode) { n.Flags = vfs.FlagImmutable }) }, "inode {link} of mode 0120777 has flags 0x10"},
		{"no target", func() { delete(r.facts, r.key("link", logical.InlineType)) }, "symlink {link} has no target"},
		{"a directory with names", func() { r.inode("dir", func(n *logical.Inode) { n.Size += 3 }) }, "directory {dir} has"},
		{"a high inode", func() {
			r.facts[logical.Key{Ino: 1 << 62, Type: logical.InodeType}] = r.facts[r.key("alone", logical.InodeType)]
		}, "too high a number"},
	} {
		r.facts = maps.Clone(whole)
		c.change()
		s, err := r.forge(sn, r.facts)
		r.ok(err)
		got := r.problems(s)
		if err := r.use(c.what, s); (err == nil) != (c.want == "") {
			t.Errorf("%s: restored: %v", c.what, err)
		}
		want := c.want
		for name, ino := range r.inos {
			want = strings.ReplaceAll(want, "{"+name+"}", fmt.Sprint(ino))
		}
		if !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%s: %s\nwant: %s", c.what, got, want)
		}
	}
	sn.Close()
	h.Close()
}

// makeFiles makes directories dir/sub/deep and other/down, a file with two names, one with one, and
// a link.
func (r *structureRig) makeFiles() {
	v, req := r.h.V, &vfs.Req{}
	dir := func(in uint64, name string) {
		a, err := v.Mkdir(req, vfs.Ino(in), name, 0o755)
		r.ok(err)
		r.inos[name] = uint64(a.Ino)
	}
	r.inos["/"] = 1
	dir(1, "dir")
	dir(r.inos["dir"], "sub")
	dir(r.inos["sub"], "deep")
	dir(1, "other")
	dir(r.inos["other"], "down")
	file := func(in uint64, name string) {
		a, err := v.Mknod(req, vfs.Ino(in), name, 0o100600, 0)
		r.ok(err)
		r.inos[name] = uint64(a.Ino)
		_, err = v.Write(req, a.Ino, 0, []byte("content"), false)
		r.ok(err)
	}
	file(1, "file")
	file(r.inos["dir"], "alone")
	_, err := v.Link(req, vfs.Ino(r.inos["file"]), 1, "hard")
	r.ok(err)
	r.ok(v.SetXattr(req, vfs.Ino(r.inos["file"]), "user.a", []byte("b"), 0))
	a, err := v.Symlink(req, 1, "link", "target")
	r.ok(err)
	r.inos["link"] = uint64(a.Ino)
}

func (r *structureRig) key(name string, t logical.Type) logical.Key {
	return logical.Key{Ino: r.inos[name], Type: t}
}

func (r *structureRig) nameKey(dir, name string, n uint64) logical.Key {
	first, _ := r.hash.NameSubs(name)
	for k, v := range r.facts { // not always the first
		if x, err := fact.DecodeName(v); n == 0 && k.Ino == r.inos[dir] && k.Type == logical.NameType && err == nil && x.Name == name {
			return k
		}
	}
	return logical.Key{Ino: r.inos[dir], Type: logical.NameType, Sub: first + 7*n}
}

func (r *structureRig) deleteName(dir, name string) { delete(r.facts, r.nameKey(dir, name, 0)) }

func (r *structureRig) name(dir, name string, ino uint64, typ uint32) {
	b, err := fact.AppendName(nil, &logical.Name{Ino: ino, Type: typ, Name: name})
	r.ok(err)
	k := r.nameKey(dir, name, 0)
	if k.Sub == 0 {
		k.Sub = 1
	}
	r.facts[k] = b
}

func (r *structureRig) inode(name string, change func(n *logical.Inode)) {
	k := r.key(name, logical.InodeType)
	n, err := fact.DecodeInode(r.facts[k])
	r.ok(err)
	change(&n)
	b, err := fact.AppendInode(nil, &n)
	r.ok(err)
	r.facts[k] = bytes.Clone(b)
}

// moveDir moves a directory with all counts.
func (r *structureRig) moveDir(dir, from, to string) {
	r.deleteName(from, dir)
	r.name(to, dir, r.inos[dir], logical.TypeDir)
	r.inode(from, func(n *logical.Inode) { n.Size--; n.Nlink-- })
	r.inode(to, func(n *logical.Inode) { n.Size++; n.Nlink++ })
	r.inode(dir, func(n *logical.Inode) { n.Parent, n.NameSub = r.inos[to], r.nameKey(to, dir, 0).Sub })
}

// problems are what verify of metadata reports, one a line.
func (r *structureRig) problems(s [16]byte) string {
	sn := r.read(s)
	defer sn.Close()
	var all strings.Builder
	_, err := verify.Run(r.t.Context(), sn.VerifySource(), verify.Options{Level: verify.Metadata, Problem: func(p verify.Problem) {
		fmt.Fprintln(&all, p.Err)
		if !errors.Is(p.Err, logical.ErrInvalid) {
			r.t.Errorf("%+v", p)
		}
	}})
	r.ok(err)
	return all.String()
}
