package volume

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/posixacl"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// hostileFacts builds facts by hand. Names and attributes get their right numbers.
type hostileFacts struct {
	f facts
}

func newHostile() *hostileFacts {
	h := &hostileFacts{f: facts{next: 100}}
	h.dir(1, 1, 2, 0)
	return h
}

func (h *hostileFacts) hash() items.Hasher { return items.NewHasher(h.f.seed) }

func (h *hostileFacts) add(x fact) *fact {
	h.f.list = append(h.f.list, x)
	return &h.f.list[len(h.f.list)-1]
}

func (h *hostileFacts) inode(ino uint64, mode, nlink uint32, size, parent uint64) *logical.Inode {
	n := &logical.Inode{Mode: mode, Nlink: nlink, Size: size, Parent: parent}
	h.add(fact{key: logical.Key{Ino: ino, Type: logical.InodeType}, inode: n})
	return n
}

func (h *hostileFacts) dir(ino, parent uint64, nlink uint32, names uint64) *logical.Inode {
	return h.inode(ino, items.ModeDir|0o755, nlink, names, parent)
}

func (h *hostileFacts) name(dir uint64, name string, ino uint64, typ uint32) *fact {
	return h.add(fact{key: logical.Key{Ino: dir, Type: logical.NameType, Sub: h.hash().Name(name)}, name: &logical.Name{Ino: ino, Type: typ, Name: name}})
}

func (h *hostileFacts) xattr(ino uint64, name string, value []byte) *fact {
	return h.add(fact{key: logical.Key{Ino: ino, Type: logical.XattrType, Sub: h.hash().Xattr(name)}, xattr: &logical.Xattr{Name: name, Value: value}})
}

func (h *hostileFacts) root() *logical.Inode { return h.f.list[0].inode }

// file makes a file with a name in the root directory.
func (h *hostileFacts) file(ino, size uint64) *logical.Inode {
	h.root().Size++
	h.name(1, fmt.Sprintf("f%d", ino), ino, items.ModeReg)
	return h.inode(ino, items.ModeReg|0o644, 1, size, 1)
}

// sub makes a directory with a name in another one.
func (h *hostileFacts) sub(dir *logical.Inode, parent, ino uint64) *logical.Inode {
	dir.Size++
	dir.Nlink++
	h.name(parent, fmt.Sprintf("d%d", ino), ino, items.ModeDir)
	return h.dir(ino, parent, 2, 0)
}

// Facts that no volume has are refused, and never make a volume that fsck calls damaged.
func TestLoadHostile(t *testing.T) {
	t.Parallel()
	reg, dir, link := uint32(items.ModeReg), uint32(items.ModeDir), uint32(items.ModeLink)
	data := func(ino, off uint64, n int) func(l *Loader) error {
		return func(l *Loader) error { return l.WriteAt(ino, []byte(strings.Repeat("x", n)), off) }
	}
	for name, c := range map[string]struct {
		make func(h *hostileFacts)
		then func(l *Loader) error
		want string // "": a good volume
	}{
		"good": {func(h *hostileFacts) {
			h.sub(h.sub(h.root(), 1, 5), 5, 4)
			h.file(3, 10_000)
			h.xattr(3, "user.a", nil)
		}, data(3, 9_000, 1000), ""},
		"no root":              {func(h *hostileFacts) { h.f.list = nil }, nil, "no root directory"},
		"root is a file":       {func(h *hostileFacts) { h.root().Mode = reg }, nil, "root directory has mode"},
		"root has a parent":    {func(h *hostileFacts) { h.root().Parent = 2; h.dir(2, 1, 2, 0) }, nil, "directory 1 has parent 2"},
		"root has a name":      {func(h *hostileFacts) { h.root().Size++; h.root().Nlink++; h.name(1, "x", 1, dir) }, nil, "belongs to inode 1"},
		"own parent":           {func(h *hostileFacts) { h.dir(2, 2, 2, 0) }, nil, "directory 2 has parent 2"},
		"no parent":            {func(h *hostileFacts) { h.sub(h.root(), 1, 2).Parent = 0 }, nil, "directory 2 has parent 0"},
		"mode":                 {func(h *hostileFacts) { h.file(2, 0).Mode = 0o070644 }, nil, "mode 070644"},
		"big mode":             {func(h *hostileFacts) { h.file(2, 0).Mode |= 1 << 20 }, nil, "mode"},
		"no links":             {func(h *hostileFacts) { h.file(2, 0).Nlink = 0 }, nil, "0 links"},
		"too many links":       {func(h *hostileFacts) { h.file(2, 0).Nlink = 1 << 31 }, nil, "links"},
		"flags":                {func(h *hostileFacts) { h.file(2, 0).Flags = 1 }, nil, "flags"},
		"flags of a symlink":   {func(h *hostileFacts) { n := h.file(2, 1); n.Mode = link | 0o777; n.Flags = vfs.FlagImmutable }, nil, "flags"},
		"time":                 {func(h *hostileFacts) { h.file(2, 0).Mtime.Nsec = 1e9 }, nil, "time"},
		"size":                 {func(h *hostileFacts) { h.file(2, 1<<63) }, nil, "bytes"},
		"size, 4 KiB less":     {func(h *hostileFacts) { h.file(2, 1<<63-4095) }, nil, "bytes"},
		"size of a fifo":       {func(h *hostileFacts) { h.file(2, 1).Mode = 0o010644 }, nil, "1 bytes"},
		"inode 0":              {func(h *hostileFacts) { h.f.list = nil; h.file0() }, nil, "inode 0"},
		"inode number":         {func(h *hostileFacts) { h.inode(100, reg, 1, 0, 0) }, nil, "next inode number is 100"},
		"parent number":        {func(h *hostileFacts) { h.sub(h.root(), 1, 2).Parent = 100 }, nil, "next inode number is 100"},
		"size of a symlink":    {func(h *hostileFacts) { h.file(2, 4096).Mode = link | 0o777 }, nil, "4096 bytes"},
		"empty symlink":        {func(h *hostileFacts) { h.file(2, 0).Mode = link | 0o777 }, nil, "0 bytes"},
		"no target":            {func(h *hostileFacts) { h.symlink(2, "") }, nil, "has no target"},
		"short target":         {func(h *hostileFacts) { h.symlink(2, "123") }, nil, "has 3 bytes"},
		"inline of a fifo":     {func(h *hostileFacts) { h.file(2, 0).Mode = 0o010644; h.inline(2, "") }, nil, "inline content"},
		"inline size":          {func(h *hostileFacts) { h.file(2, 3); h.inline(2, "1234") }, nil, "inline content"},
		"large inline":         {func(h *hostileFacts) { h.file(2, 2049); h.inline(2, strings.Repeat("x", 2049)) }, nil, "inline content"},
		"inline of nothing":    {func(h *hostileFacts) { h.inline(2, "x") }, nil, "does not exist"},
		"attribute of nothing": {func(h *hostileFacts) { h.xattr(2, "user.a", nil) }, nil, "does not exist"},
		"attribute name":       {func(h *hostileFacts) { h.file(2, 0); h.xattr(2, strings.Repeat("x", 256), nil) }, nil, "name"},
		"attribute value":      {func(h *hostileFacts) { h.file(2, 0); h.xattr(2, "user.a", make([]byte, 65537)) }, nil, "65537 bytes"},
		"attribute number":     {func(h *hostileFacts) { h.file(2, 0); h.xattr(2, "user.a", nil).key.Sub++ }, nil, "number"},
		"attribute hash":       {func(h *hostileFacts) { h.file(2, 0); h.xattr(2, "user.a", nil).key.Sub ^= 1 << 40 }, nil, "number"},
		"attribute twice": {func(h *hostileFacts) {
			h.file(2, 0)
			h.xattr(2, "user.a", nil)
			h.xattr(2, "user.a", nil).key.Sub += 256
		}, nil, "twice"},
		"attribute twice, apart": {func(h *hostileFacts) {
			h.file(2, 0)
			h.xattr(2, "user.a", make([]byte, 65536))
			h.xattr(2, "user.a", nil).key.Sub += 256
		}, nil, "user.a"},
		"list of attributes": {func(h *hostileFacts) {
			h.file(2, 0)
			for i := range 300 {
				h.xattr(2, fmt.Sprintf("user.%0230d", i), nil)
			}
		}, nil, "65536 bytes"},
		"ACL":               {func(h *hostileFacts) { h.file(2, 0); h.xattr(2, posixacl.AccessName, []byte("x")) }, nil, "ACL"},
		"ACL of a symlink":  {func(h *hostileFacts) { h.symlink(2, "1234"); h.xattr(2, posixacl.AccessName, goodACL()) }, nil, "ACL"},
		"default ACL":       {func(h *hostileFacts) { h.file(2, 0); h.xattr(2, posixacl.DefaultName, goodACL()) }, nil, "ACL"},
		"name of nothing":   {func(h *hostileFacts) { h.root().Size++; h.name(1, "x", 7, reg) }, nil, "inode 7, which does not exist"},
		"name, wrong type":  {func(h *hostileFacts) { h.root().Size++; h.name(1, "x", 7, link); h.inode(7, reg, 1, 0, 0) }, nil, "inode 7"},
		"name, no type":     {func(h *hostileFacts) { h.root().Size++; h.name(1, "x", 7, 0); h.inode(7, reg, 1, 0, 0) }, nil, "type 0"},
		"name of inode 0":   {func(h *hostileFacts) { h.root().Size++; h.name(1, "x", 0, reg) }, nil, "inode 0"},
		"name of inode 100": {func(h *hostileFacts) { h.root().Size++; h.name(1, "x", 100, reg) }, nil, "inode 100"},
		"name in a file":    {func(h *hostileFacts) { h.file(2, 1); h.name(2, "x", 2, reg) }, nil, `the name "x"`},
		"name in nothing":   {func(h *hostileFacts) { h.name(2, "x", 2, reg) }, nil, "does not exist"},
		"empty name":        {func(h *hostileFacts) { h.name(1, "", 2, reg) }, nil, "name"},
		"dot":               {func(h *hostileFacts) { h.name(1, "..", 2, reg) }, nil, "name"},
		"slash":             {func(h *hostileFacts) { h.name(1, "a/b", 2, reg) }, nil, "name"},
		"long name":         {func(h *hostileFacts) { h.name(1, strings.Repeat("x", 256), 2, reg) }, nil, "name"},
		"name hash":         {func(h *hostileFacts) { h.name(1, "x", 2, reg).key.Sub ^= 1 << 40 }, nil, "number"},
		"name twice": {func(h *hostileFacts) {
			h.root().Size = 2
			h.name(1, "x", 2, reg)
			h.name(1, "x", 2, reg).key.Sub++
			h.inode(2, reg, 2, 0, 0)
		}, nil, "twice"},
		"too few links":      {func(h *hostileFacts) { h.file(2, 0).Nlink = 2 }, nil, "inode 2 of mode"},
		"too many names":     {func(h *hostileFacts) { h.file(2, 0); h.root().Size++; h.name(1, "more", 2, reg) }, nil, "inode 2 of mode"},
		"no name":            {func(h *hostileFacts) { h.inode(2, reg, 1, 0, 0) }, nil, "inode 2 of mode"},
		"count of names":     {func(h *hostileFacts) { h.file(2, 0); h.root().Size++ }, nil, "instead of"},
		"links of directory": {func(h *hostileFacts) { h.sub(h.root(), 1, 2).Nlink++ }, nil, "link count"},
		"links of root":      {func(h *hostileFacts) { h.file(2, 0); h.root().Nlink++ }, nil, "instead of"},
		"two names of a directory": {func(h *hostileFacts) {
			h.sub(h.root(), 1, 2)
			h.root().Nlink++
			h.root().Size++
			h.name(1, "more", 2, dir)
		}, nil, "inode 2 of mode"},
		"other parent": {func(h *hostileFacts) { h.sub(h.root(), 1, 2); h.sub(h.root(), 1, 3).Parent = 2 }, nil, "directory 3"},
		"cycle": {func(h *hostileFacts) {
			a, b := h.dir(2, 3, 3, 1), h.dir(3, 2, 3, 1)
			_, _ = a, b
			h.name(2, "b", 3, dir)
			h.name(3, "a", 2, dir)
		}, nil, "2 directories are not below"},
		"cycle with more": {func(h *hostileFacts) {
			h.sub(h.root(), 1, 9)
			h.dir(2, 4, 3, 1)
			h.name(2, "b", 3, dir)
			h.sub(h.dir(3, 2, 3, 1), 3, 6)
			h.f.list[len(h.f.list)-3].inode.Nlink, h.f.list[len(h.f.list)-3].inode.Size = 4, 2
			h.name(3, "c", 4, dir)
			h.dir(4, 3, 3, 1)
			h.name(4, "a", 2, dir)
		}, nil, "4 directories are not below"},
		"unknown places": {func(h *hostileFacts) { // of directories whose parents have higher numbers
			at, ino := h.root(), uint64(1)
			for i := range uint64(20) {
				at, ino = h.sub(at, ino, 90-i), 90-i
				h.file(20+i, 0)
			}
		}, nil, ""},
		"data of nothing":     {func(*hostileFacts) {}, data(2, 0, 1), "does not exist"},
		"data of a directory": {func(h *hostileFacts) { h.file(2, 0) }, data(1, 0, 1), "data up to 1"},
		"data of a symlink":   {func(h *hostileFacts) { h.symlink(2, "1234") }, data(2, 0, 1), "data up to 1"},
		"data beyond the end": {func(h *hostileFacts) { h.file(2, 4095) }, data(2, 0, 4096), "data up to 4096"},
		"data at the limit":   {func(h *hostileFacts) { h.file(2, 1<<63-4096) }, data(2, 1<<63-4097, 1), ""},
		"data at no place":    {func(h *hostileFacts) { h.file(2, 1<<63-4096) }, data(2, 1<<64-1, 2), "bytes of data at"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHostile()
			c.make(h)
			slices.SortStableFunc(h.f.list, func(a, b fact) int { return a.key.Compare(b.key) })
			err := loadHostile(t, &h.f, c.then)
			if c.want == "" {
				ok(t, err)
			} else if !errors.Is(err, logical.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// file0 gives an inode the number 0.
func (h *hostileFacts) file0() { h.inode(0, items.ModeReg, 1, 0, 0) }

func (h *hostileFacts) inline(ino uint64, s string) {
	h.add(fact{key: logical.Key{Ino: ino, Type: logical.InlineType}, inline: []byte(s)})
}

// symlink makes a symlink of 4 bytes.
func (h *hostileFacts) symlink(ino uint64, target string) {
	h.root().Size++
	h.name(1, fmt.Sprintf("l%d", ino), ino, items.ModeLink)
	h.inode(ino, items.ModeLink|0o777, 1, 4, 1)
	if target != "" {
		h.inline(ino, target)
	}
}

func goodACL() []byte {
	return posixacl.ACL{{Tag: posixacl.UserObj, Perm: 7}, {Tag: posixacl.GroupObj, Perm: 5}, {Tag: posixacl.Other, Perm: 5}}.Encode()
}

// loadHostile loads facts. Whatever comes of it, fsck does not call it damaged.
func loadHostile(t testing.TB, f *facts, then func(l *Loader) error) error {
	t.Helper()
	dev := device.NewMem(64 << 20)
	return loadOn(t, dev, newLoader(t, dev, f, 0), f, then)
}

func loadOn(t testing.TB, dev device.Device, l *Loader, f *facts, then func(l *Loader) error) error {
	t.Helper()
	var err error
	for i := range f.list {
		if err = f.list[i].give(l); err != nil {
			break
		}
	}
	if err == nil && then != nil {
		err = then(l)
	}
	if err == nil {
		err = l.Finish()
	} else if e := l.Finish(); e == nil && then == nil {
		t.Error("the load ends well after an error")
	}
	ok(t, l.Close())
	rep, cerr := check.Run(dev, check.Options{Credential: testCred(t), Data: true})
	ok(t, cerr)
	if !rep.Clean || rep.Restoring != (err != nil) && then == nil {
		t.Errorf("fsck: restoring %t, %v", rep.Restoring, rep.Problems)
	}
	return err
}

// Random changes of good facts are refused, or make a good volume.
func TestLoadMutated(t *testing.T) {
	t.Parallel()
	base := crashFacts(t)
	rng := rand.New(rand.NewPCG(3, 3))
	refused := 0
	for i := range fewer(300) {
		f := *base.f
		f.list = slices.Clone(f.list)
		for range 1 + rng.IntN(2) {
			f.mutate(rng)
		}
		dev := device.NewMem(64 << 20)
		l := newLoader(t, dev, &f, 0)
		if i%2 == 0 { // after an interruption, and some good ones
			for j := range rng.IntN(len(base.f.list)) {
				ok(t, base.f.list[j].give(l))
			}
			ok(t, l.Close())
			var err error
			l, _, err = ResumeLoader(dev, f.options(t))
			ok(t, err)
		}
		err := loadOn(t, dev, l, &f, func(l *Loader) error { return f.giveData(l, rng) })
		if err != nil {
			if !errors.Is(err, logical.ErrInvalid) {
				t.Fatal(err)
			}
			refused++
		}
	}
	t.Logf("%d refused", refused)
}

// mutate changes one fact.
func (f *facts) mutate(rng *rand.Rand) {
	i := rng.IntN(len(f.list))
	x := &f.list[i]
	switch k := rng.IntN(4); {
	case k == 0:
		f.list = slices.Delete(f.list, i, i+1)
	case k == 1 && x.inode != nil:
		n := *x.inode
		switch rng.IntN(6) {
		case 0:
			n.Size += uint64(rng.IntN(3)) - 1
		case 1:
			n.Nlink += uint32(rng.IntN(3)) - 1
		case 2:
			n.Parent = uint64(rng.IntN(30))
		case 3:
			n.Mode ^= 1 << rng.IntN(17)
		case 4:
			n.NameSub = rng.Uint64()
		case 5:
			n.Flags ^= 1 << rng.IntN(10)
		}
		x.inode = &n
	case k == 1 && x.name != nil:
		n := *x.name
		if rng.IntN(2) == 0 {
			n.Ino = uint64(rng.IntN(30))
		} else {
			n.Type ^= 0o010000 << rng.IntN(4)
		}
		x.name = &n
	case k == 2:
		x.key.Ino = uint64(rng.IntN(30))
		slices.SortStableFunc(f.list, func(a, b fact) int { return a.key.Compare(b.key) })
	case k == 3:
		x.key.Sub += uint64(rng.IntN(2))
	}
}
