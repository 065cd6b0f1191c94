package merkle

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/snapshot/fact"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

var updateDocument = flag.Bool("update", false, "write the example of docs/snapshot-format.md, Map, anew")

const document = "../../../docs/snapshot-format.md"

// sealed makes references as a snapshot has them: without compression, one behind the other in pack
// 1.
type sealed struct {
	t     *testing.T
	keys  *crypto.TenantKeys
	at    uint32
	slot  uint16
	nodes [][]byte
}

func (s *sealed) chunk(kind crypto.ChunkKind, plain []byte) selfenc.PackedRef {
	r, object, err := s.keys.SealPacked(1, kind, 0, plain, nil, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Name = [32]byte{}
	p := selfenc.PackedRef{Ref: r, Stored: uint32(len(object)), Pack: 1, Offset: 32 + s.at, Slot: s.slot}
	s.at += p.Stored
	s.slot++
	return p
}

func (s *sealed) Put(_ context.Context, plain []byte) (selfenc.PackedRef, error) {
	s.nodes = append(s.nodes, append([]byte(nil), plain...))
	return s.chunk(crypto.ChunkTree, plain), nil
}

func (s *sealed) Get(context.Context, *selfenc.PackedRef) ([]byte, error) { return nil, errNoNode }

// exampleFacts are a directory with a file of three names of bytes, and one of a chunk.
func exampleFacts(t *testing.T, s *sealed) []Change {
	data := s.chunk(crypto.ChunkData, []byte(strings.Repeat("data ", 1000)))
	when := vfs.Timespec{Sec: 1_800_000_000, Nsec: 500_000_000}
	var out []Change
	add := func(ino uint64, typ logical.Type, sub uint64) func([]byte, error) {
		return func(v []byte, err error) {
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, Change{Key: logical.Key{Ino: ino, Type: typ, Sub: sub}, Value: v})
		}
	}
	add(1, logical.InodeType, 0)(fact.AppendInode(nil, &logical.Inode{Mode: 0o40755, Nlink: 2, Size: 2, Parent: 1, Mtime: when, Ctime: when, Atime: when, Btime: when}))
	add(1, logical.NameType, 0x1000)(fact.AppendName(nil, &logical.Name{Ino: 2, Type: logical.TypeReg, Name: "hello"}))
	add(1, logical.NameType, 0x2300)(fact.AppendName(nil, &logical.Name{Ino: 3, Type: logical.TypeReg, Name: "data"}))
	later := vfs.Timespec{Sec: when.Sec + 1, Nsec: 0}
	add(2, logical.InodeType, 0)(fact.AppendInode(nil, &logical.Inode{Mode: 0o100644, Nlink: 1, UID: 1000, GID: 1000, Size: 13, Parent: 1, NameSub: 0x1000,
		Mtime: later, Ctime: later, Atime: when, Btime: when}))
	add(2, logical.InlineType, 0)([]byte("hello, world!"), nil)
	add(2, logical.XattrType, 0x50000)(fact.AppendXattr(nil, &logical.Xattr{Name: "user.a", Value: []byte("b")}))
	add(3, logical.InodeType, 0)(fact.AppendInode(nil, &logical.Inode{Mode: 0o100600, Nlink: 1, Size: 5000, Parent: 1, NameSub: 0x2300, Mtime: when, Ctime: when, Atime: when, Btime: when}))
	add(3, logical.DataType, 0)(fact.AppendData(nil, &selfenc.PackedObject{Bytes: 5000, ChunkBytes: 65536, Root: data}))
	return out
}

// TestDocument compares the example of docs/snapshot-format.md, "Map".
func TestDocument(t *testing.T) {
	secret := make([]byte, 32)
	for i := range secret {
		secret[i] = byte(i)
	}
	key, err := crypto.NewKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Erase()
	keys, err := crypto.DeriveTenantKeys(key)
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Erase()
	cut, err := keys.CutKey()
	if err != nil {
		t.Fatal(err)
	}
	s := &sealed{t: t, keys: keys}
	c := Config{Nodes: s, Cut: cut, Content: fact.Content}
	var b strings.Builder
	dump := func(name string, data []byte) {
		fmt.Fprintf(&b, "%s, %d bytes\n", name, len(data))
		for ; len(data) > 0; data = data[min(32, len(data)):] {
			fmt.Fprintf(&b, "  %x\n", data[:min(32, len(data))])
		}
	}
	facts := exampleFacts(t, s)
	for _, f := range facts {
		dump(fmt.Sprintf("inode %d, type %d, sub %#x: value", f.Key.Ino, f.Key.Type, f.Key.Sub), f.Value)
	}
	root, _ := update(t, c, Root{}, seq(facts))
	dump("the leaf", s.nodes[0])
	form, err := fact.Content(nil, facts[len(facts)-1].Key, facts[len(facts)-1].Value)
	if err != nil {
		t.Fatal(err)
	}
	dump("placeless form of the last value", form)
	dump("content hash of the leaf", root.Content[:])
	dump("its reference", selfenc.AppendPackedRef(nil, &root.Ref))

	s.nodes = nil
	root, _ = update(t, c, Root{}, func(yield func(Change, error) bool) {
		for i := range uint64(60) {
			if !yield(Change{Key: logical.Key{Ino: i + 1, Type: logical.InlineType}, Value: []byte(strings.Repeat("x", 2000))}, nil) {
				return
			}
		}
	})
	if root.Height != 1 {
		t.Fatal(root.Height)
	}
	dump("the root of the second map", s.nodes[len(s.nodes)-1])
	dump("its content hash", root.Content[:])
	compareDocument(t, b.String())
}

func compareDocument(t *testing.T, want string) {
	t.Helper()
	const begin, end = "<!-- map: TestDocument of pkg/snapshot/merkle compares this -->\n```\n", "```\n<!-- end of map -->"
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	got, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("no example")
	}
	if got == want {
		return
	}
	if !*updateDocument {
		t.Fatalf("the example should be\n%s", want)
	}
	if err := os.WriteFile(document, []byte(before+begin+want+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
