package fact

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

var inodes = []logical.Inode{
	{Mode: 0o100644, Nlink: 1},
	{
		Mode: 0o100644, Nlink: 1, UID: 1000, GID: 1000, Size: 4711, Parent: 12, NameSub: 0x3ad5_11fe_2300_1700, Mtime: vfs.Timespec{Sec: 1_800_000_000, Nsec: 123_456_789},
		Ctime: vfs.Timespec{Sec: 1_800_000_000, Nsec: 125_000_000}, Atime: vfs.Timespec{Sec: 1_800_000_000, Nsec: 120_000_000}, Btime: vfs.Timespec{Sec: 1_800_000_000, Nsec: 120_000_000},
	},
	{
		Mode: 0o177777 &^ 0o30000, Nlink: vfs.MaxLinks, UID: math.MaxUint32, GID: math.MaxUint32, Rdev: math.MaxUint32, Flags: logical.KnownFlags, Size: vfs.MaxFileBytes,
		Parent: math.MaxUint64, NameSub: math.MaxUint64, Mtime: vfs.Timespec{Sec: math.MinInt64, Nsec: 999_999_999}, Ctime: vfs.Timespec{Sec: math.MaxInt64},
		Atime: vfs.Timespec{Sec: -1}, Btime: vfs.Timespec{Sec: math.MinInt64},
	},
}

func init() { inodes[2].Mode = 0o040000 | 0o7777 }

func TestInode(t *testing.T) {
	for _, n := range inodes {
		b, err := AppendInode(nil, &n)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeInode(b)
		if err != nil || got != n {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if b, err := AppendInode(nil, &inodes[1]); err != nil || len(b) > 50 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	for _, n := range []logical.Inode{{}, {Mode: 0o100644}, {Mode: 0o100644, Nlink: 1, Flags: 1}, {Mode: 0o100644, Nlink: 1, Ctime: vfs.Timespec{Nsec: 1e9}}} {
		if _, err := AppendInode(nil, &n); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", n, err)
		}
	}
}

func TestName(t *testing.T) {
	for _, n := range []logical.Name{{Ino: 1, Type: logical.TypeReg, Name: "a"}, {Ino: math.MaxUint64, Type: logical.TypeDir, Name: strings.Repeat("\xff", 255)}} {
		b, err := AppendName(nil, &n)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeName(b); err != nil || got != n {
			t.Errorf("%+v, %v", got, err)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", "a\x00b", strings.Repeat("a", 256)} {
		n := logical.Name{Ino: 1, Type: logical.TypeReg, Name: name}
		if _, err := AppendName(nil, &n); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
		if _, err := DecodeName(append([]byte{1, 8}, name...)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, b := range [][]byte{nil, {1}, {0, 8, 'a'}, {1, 3, 'a'}, {1, 0, 'a'}, {0x81, 0, 8, 'a'}, {1, 0x18, 'a'}} {
		if _, err := DecodeName(b); !errors.Is(err, ErrInvalid) {
			t.Errorf("%x: %v", b, err)
		}
	}
}

func TestXattr(t *testing.T) {
	for _, x := range []logical.Xattr{{Name: "user.a", Value: []byte{}}, {Name: strings.Repeat("n", 255), Value: bytes.Repeat([]byte{1}, vfs.MaxXattrBytes)}} {
		b, err := AppendXattr(nil, &x)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeXattr(b); err != nil || !reflect.DeepEqual(got, x) {
			t.Errorf("%.20s, %v", got.Name, err)
		}
	}
	for _, b := range [][]byte{nil, {0}, {2, 'a'}, {1, 0}, append([]byte{1, 'a'}, make([]byte, vfs.MaxXattrBytes+1)...)} {
		if _, err := DecodeXattr(b); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.20x: %v", b, err)
		}
	}
}

func TestKeys(t *testing.T) {
	inode, err := AppendInode(nil, &inodes[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		key   logical.Key
		value []byte
		ok    bool
	}{
		{logical.Key{Ino: 1, Type: 1}, inode, true},
		{logical.Key{Ino: 0, Type: 1}, inode, false},
		{logical.Key{Ino: 1, Type: 1, Sub: 1}, inode, false},
		{logical.Key{Ino: 1, Type: 1}, append(bytes.Clone(inode), 0), false},
		{logical.Key{Ino: 1, Type: 2}, []byte("x"), true},
		{logical.Key{Ino: 1, Type: 2}, nil, false},
		{logical.Key{Ino: 1, Type: 2}, make([]byte, 4096), false},
		{logical.Key{Ino: 1, Type: 3}, []byte("\x01av"), true},
		{logical.Key{Ino: 1, Type: 4, Sub: 256}, []byte("\x01\x08a"), true},
		{logical.Key{Ino: 1, Type: 4}, []byte("\x01\x08a"), false},
		{logical.Key{Ino: 1, Type: 4, Sub: 1 << 63}, []byte("\x01\x08a"), false},
		{logical.Key{Ino: 1, Type: 0}, []byte("x"), false},
		{logical.Key{Ino: 1, Type: 6}, []byte("x"), false},
	} {
		got, err := Content([]byte("begin"), c.key, c.value)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%v %x: %v", c.key, c.value, err)
		}
		if c.ok && string(got) != "begin"+string(c.value) {
			t.Errorf("%v: %x", c.key, got)
		}
	}
}

// objects are contents of files: a chunk, a compressed one, and a map.
func objects() []selfenc.PackedObject {
	chunk := selfenc.PackedRef{Ref: selfenc.Ref{Suite: 1, Kind: crypto.ChunkData, Length: 5000, D: [32]byte{1}, P: [32]byte{1}}, Stored: 5016, Pack: 7, Offset: 32, Slot: 3}
	small := chunk
	small.Comp, small.P, small.Stored = 1, [32]byte{2}, 900
	node := small
	node.Kind, node.Length = crypto.ChunkMap, 8+2*selfenc.PackedRefBytes
	node.Stored = 100
	return []selfenc.PackedObject{
		{Bytes: 5000, ChunkBytes: 65536, Root: chunk}, {Bytes: 5000, ChunkBytes: 65536, Root: small}, {Bytes: 70_000, ChunkBytes: 65536, Root: node, Content: [32]byte{5}},
	}
}

func TestData(t *testing.T) {
	k, contents := logical.Key{Ino: 1, Type: logical.DataType}, map[string]bool{}
	for _, o := range objects() {
		b, err := AppendData(nil, &o)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeData(b); err != nil || got != o {
			t.Errorf("%+v, %v", got, err)
		}
		moved := o
		moved.Root.Pack, moved.Root.Offset, moved.Root.Slot = 99, 4711, 5
		b2, err := AppendData(nil, &moved)
		if err != nil || bytes.Equal(b, b2) {
			t.Fatal(err)
		}
		c, err := Content(nil, k, b)
		c2, err2 := Content(nil, k, b2)
		if err != nil || err2 != nil || !bytes.Equal(c, c2) || len(c) >= len(b) {
			t.Errorf("%x and %x, %v, %v", c, c2, err, err2)
		}
		contents[string(c)] = true
		for _, bad := range [][]byte{append(b, 0), b[:len(b)-1], nil} {
			if _, err := Content(nil, k, bad); !errors.Is(err, ErrInvalid) {
				t.Errorf("%x: %v", bad, err)
			}
		}
	}
	if len(contents) != 2 { // the same chunk twice
		t.Errorf("%d contents", len(contents))
	}
	hole, inline := objects()[0], objects()[0]
	hole.Root = selfenc.PackedRef{}
	inline.Bytes, inline.Root.Length, inline.Root.Stored = logical.MaxInline, logical.MaxInline, logical.MaxInline+16
	for _, o := range []selfenc.PackedObject{hole, inline, {ChunkBytes: 65536}, {}} {
		if _, err := AppendData(nil, &o); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
		if o.ChunkBytes > 0 {
			if _, err := DecodeData(selfenc.AppendPackedObject(nil, &o)); !errors.Is(err, ErrInvalid) {
				t.Errorf("%+v: %v", o, err)
			}
		}
	}
}

// FuzzFact: what a decoder takes encodes to the same bytes.
func FuzzFact(f *testing.F) {
	for _, n := range inodes {
		b, err := AppendInode(nil, &n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(logical.InodeType), b)
	}
	f.Add(uint8(logical.InlineType), []byte("content"))
	f.Add(uint8(logical.XattrType), []byte("\x06user.avalue"))
	f.Add(uint8(logical.NameType), []byte("\x83\x02\x08name"))
	for _, o := range objects() {
		f.Add(uint8(logical.DataType), selfenc.AppendPackedObject(nil, &o))
	}
	f.Fuzz(func(t *testing.T, typ uint8, v []byte) {
		k := logical.Key{Ino: 1, Type: logical.Type(typ)}
		if k.Type == logical.NameType {
			k.Sub = 256
		}
		content, err := Content(nil, k, v)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		again, err := encodeAgain(k.Type, v)
		if err != nil || !bytes.Equal(again, v) {
			t.Fatalf("%x is %x again, %v", v, again, err)
		}
		if len(content) > len(v) {
			t.Fatalf("%d bytes have a content of %d", len(v), len(content))
		}
	})
}

func encodeAgain(typ logical.Type, v []byte) ([]byte, error) {
	switch typ {
	case logical.InodeType:
		n, err := DecodeInode(v)
		if err != nil {
			return nil, err
		}
		return AppendInode(nil, &n)
	case logical.XattrType:
		x, err := DecodeXattr(v)
		if err != nil {
			return nil, err
		}
		return AppendXattr(nil, &x)
	case logical.NameType:
		n, err := DecodeName(v)
		if err != nil {
			return nil, err
		}
		return AppendName(nil, &n)
	}
	if typ == logical.DataType {
		o, err := DecodeData(v)
		if err != nil {
			return nil, err
		}
		return AppendData(nil, &o)
	}
	return v, nil
}
