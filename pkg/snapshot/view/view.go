package view

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/snapshot/fact"
	"github.com/sealvol/sealvol/pkg/snapshot/merkle"
	"github.com/sealvol/sealvol/pkg/snapshot/pack"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/namehash"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Source is what a View reads: the parts of an opened snapshot.
type Source struct {
	Map    *merkle.Map
	Sealer *selfenc.PackedSealer
	Seed   [16]byte // of the volume's hash of names
	Files  uint64   // with directories: what df shows
	Bytes  uint64   // of content
}

// View is a stored snapshot as a file system. It implements vfs.Reader.
type View struct {
	ctx  context.Context //nolint:containedctx // vfs.Reader has none; it ends all reads
	src  Source
	hash namehash.Hasher

	readers readers
}

var _ vfs.Reader = (*View)(nil)

const blockBytes = 4096

// New returns a view. Its reads fail when ctx has ended.
func New(ctx context.Context, s Source) *View {
	return &View{ctx: ctx, src: s, hash: namehash.New(s.Seed)}
}

// fail gives an error the class that a file system has. Errors of the store stay visible.
func fail(err error) error {
	switch {
	case err == nil, errors.Is(err, vfs.ErrCorrupt), errors.Is(err, vfs.ErrStale), errors.Is(err, vfs.ErrIO):
		return err
	case errors.Is(err, merkle.ErrInvalid), errors.Is(err, selfenc.ErrCorrupt), errors.Is(err, selfenc.ErrMap), errors.Is(err, logical.ErrInvalid),
		errors.Is(err, pack.ErrDamaged), errors.Is(err, pack.ErrNoPack):
		return fmt.Errorf("%w: %w", vfs.ErrCorrupt, err)
	}
	return fmt.Errorf("%w: %w", vfs.ErrIO, err)
}

// StatFS implements vfs.Reader: a snapshot is as large as its content, and full.
func (v *View) StatFS() vfs.StatFS {
	return vfs.StatFS{BlockSize: blockBytes, Blocks: (v.src.Bytes + blockBytes - 1) / blockBytes, Inodes: v.src.Files, NameMax: vfs.MaxNameBytes}
}

// get returns the fact of a key, or nil.
func (v *View) get(k logical.Key) ([]byte, error) {
	b, ok, err := v.src.Map.Get(v.ctx, k)
	if err != nil || !ok {
		return nil, fail(err)
	}
	return b, nil
}

func (v *View) inode(ino vfs.Ino) (*logical.Inode, error) {
	b, err := v.get(logical.Key{Ino: uint64(ino), Type: logical.InodeType})
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, fmt.Errorf("inode %d: %w", ino, vfs.ErrStale)
	}
	n, err := fact.DecodeInode(b)
	if err != nil {
		return nil, fail(fmt.Errorf("inode %d: %w", ino, err))
	}
	return &n, nil
}

// attr returns the attributes of an inode, as the volume does. Space in use is an estimate from the
// size, since the content says where holes are only when it is read. It is rather too large:
// programs such as tar consider a file without blocks to be a hole, and do not read it.
func attr(ino vfs.Ino, n *logical.Inode) vfs.Attr {
	a := vfs.Attr{Ino: ino, Mode: n.Mode, Nlink: n.Nlink, UID: n.UID, GID: n.GID, Rdev: n.Rdev, Size: n.Size,
		Atime: n.Atime, Mtime: n.Mtime, Ctime: n.Ctime, Btime: n.Btime}
	switch {
	case n.IsDir():
		a.Size = 4096 + n.Size*32 // the fact has the number of names
		fallthrough
	case n.IsRegular():
		a.Blocks = (a.Size + blockBytes - 1) / blockBytes * (blockBytes / 512)
	}
	return a
}

// GetAttr implements vfs.Reader.
func (v *View) GetAttr(ino vfs.Ino) (vfs.Attr, error) {
	n, err := v.inode(ino)
	if err != nil {
		return vfs.Attr{}, err
	}
	return attr(ino, n), nil
}

// directory returns an inode that must be a directory.
func (v *View) directory(ino vfs.Ino) (*logical.Inode, error) {
	n, err := v.inode(ino)
	if err == nil && !n.IsDir() {
		err = vfs.ErrNotDir
	}
	return n, err
}

// Lookup implements vfs.Reader.
func (v *View) Lookup(parent vfs.Ino, name string) (vfs.Attr, error) {
	if _, err := v.directory(parent); err != nil {
		return vfs.Attr{}, err
	}
	if len(name) > vfs.MaxNameBytes {
		return vfs.Attr{}, vfs.ErrNameTooLong
	}
	first, last := v.hash.NameSubs(name)
	var ino vfs.Ino
	err := v.scan(parent, logical.NameType, first, last, func(k logical.Key, b []byte) (bool, error) {
		n, err := fact.DecodeName(b)
		if err == nil && n.Name == name {
			ino = vfs.Ino(n.Ino)
		}
		return ino == 0, err
	})
	if err != nil {
		return vfs.Attr{}, err
	}
	if ino == 0 {
		return vfs.Attr{}, vfs.ErrNotExist
	}
	return v.GetAttr(ino)
}

// scan visits facts of one type of an inode, until fn returns false.
func (v *View) scan(ino vfs.Ino, t logical.Type, first, last uint64, fn func(k logical.Key, b []byte) (bool, error)) error {
	from, to := logical.Key{Ino: uint64(ino), Type: t, Sub: first}, logical.Key{Ino: uint64(ino), Type: t, Sub: last}
	for x, err := range v.src.Map.Scan(v.ctx, from, to) {
		if err != nil {
			return fail(err)
		}
		more, err := fn(x.Key, x.Value)
		if err != nil {
			return fail(fmt.Errorf("inode %d: %w", ino, err))
		}
		if !more {
			break
		}
	}
	return nil
}

// Parent implements vfs.Reader.
func (v *View) Parent(dir vfs.Ino) (vfs.Ino, error) {
	n, err := v.directory(dir)
	if err != nil {
		return 0, err
	}
	if dir == vfs.RootIno || n.Parent == 0 {
		return vfs.RootIno, nil
	}
	return vfs.Ino(n.Parent), nil
}

// ReadDir implements vfs.Reader.
func (v *View) ReadDir(dir vfs.Ino, cookie uint64, plus bool, fn func(d vfs.Dirent, attr *vfs.Attr) bool) error {
	if _, err := v.directory(dir); err != nil {
		return err
	}
	if cookie >= vfs.MaxCookie {
		return nil
	}
	return v.scan(dir, logical.NameType, cookie+1, vfs.MaxCookie, func(k logical.Key, b []byte) (bool, error) {
		n, err := fact.DecodeName(b)
		if err != nil {
			return false, err
		}
		var a *vfs.Attr
		if plus {
			got, err := v.GetAttr(vfs.Ino(n.Ino))
			if err != nil {
				return false, err
			}
			a = &got
		}
		return fn(vfs.Dirent{Name: n.Name, Ino: vfs.Ino(n.Ino), Type: n.Type, Cookie: k.Sub}, a), nil
	})
}

// Readlink implements vfs.Reader.
func (v *View) Readlink(ino vfs.Ino) (string, error) {
	n, err := v.inode(ino)
	if err != nil {
		return "", err
	}
	if !n.IsSymlink() {
		return "", vfs.ErrInvalid
	}
	b, err := v.get(logical.Key{Ino: uint64(ino), Type: logical.InlineType})
	if err == nil && uint64(len(b)) != n.Size {
		err = fmt.Errorf("%w: inode %d: a symbolic link of %d bytes has %d", vfs.ErrCorrupt, ino, n.Size, len(b))
	}
	return string(b), err
}

// GetXattr implements vfs.Reader.
func (v *View) GetXattr(ino vfs.Ino, name string) (value []byte, err error) {
	if _, err := v.inode(ino); err != nil {
		return nil, err
	}
	first, last := v.hash.XattrSubs(name)
	found := false
	err = v.scan(ino, logical.XattrType, first, last, func(_ logical.Key, b []byte) (bool, error) {
		x, err := fact.DecodeXattr(b)
		if err == nil && x.Name == name {
			value, found = x.Value, true
		}
		return !found, err
	})
	if err == nil && !found {
		err = vfs.ErrNoXattr
	}
	return value, err
}

// ListXattr implements vfs.Reader.
func (v *View) ListXattr(ino vfs.Ino) (names []string, err error) {
	if _, err := v.inode(ino); err != nil {
		return nil, err
	}
	err = v.scan(ino, logical.XattrType, 0, ^uint64(0), func(_ logical.Key, b []byte) (bool, error) {
		x, err := fact.DecodeXattr(b)
		names = append(names, x.Name)
		return true, err
	})
	return names, err
}
