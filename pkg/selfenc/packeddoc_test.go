package selfenc

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
)

const snapshotDocument = "../../docs/snapshot-format.md"

// orderedPacks puts objects into one pack, one behind the other.
type orderedPacks struct {
	keys *crypto.TenantKeys
	pack []byte
	refs []PackedRef
}

func (p *orderedPacks) Add(_ context.Context, r *crypto.ChunkRef, object []byte) (PackedRef, error) {
	ref := PackedRef{Ref: *r, Stored: uint32(len(object)), Pack: 1, Offset: uint32(len(p.pack)), Slot: uint16(len(p.refs))}
	p.pack = append(p.pack, object...)
	p.refs = append(p.refs, ref)
	return ref, nil
}

func (p *orderedPacks) Open(_ context.Context, r *PackedRef, dst []byte) ([]byte, error) {
	return p.keys.OpenPacked(&r.Ref, p.pack[r.Offset:r.Offset+r.Stored], dst)
}

// TestPackedDocument compares the example in the document with the output of the code.
func TestPackedDocument(t *testing.T) {
	const begin, end = "<!-- objects of files: TestPackedDocument of pkg/selfenc compares this -->\n```\n", "```\n<!-- end of objects of files -->"
	text, err := os.ReadFile(snapshotDocument)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	got, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("no example")
	}
	if want := packedExample(t); got != want {
		if *update {
			if err := os.WriteFile(snapshotDocument, []byte(before+begin+want+end+after), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		t.Errorf("the example should be\n%s", want)
	}
}

func packedExample(t *testing.T) string {
	var secret [crypto.KeyBytes]byte
	for i := range secret {
		secret[i] = byte(i)
	}
	k, err := crypto.NewKey(secret[:])
	if err != nil {
		t.Fatal(err)
	}
	defer k.Erase()
	keys, err := crypto.DeriveTenantKeys(k)
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Erase()
	packs := &orderedPacks{keys: keys, pack: make([]byte, PackHeaderBytes)}
	s, err := NewPackedSealer(keys, crypto.SuiteXChaCha20Poly1305, packs, packs, PackedOptions{ChunkBytes: PackedMinChunk})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f := newSparseFile(0)
	f.write([]byte("hello, world!"), 256*PackedMinChunk)
	o, _ := update1(t, s, nil, f, f.data())
	var b strings.Builder
	dump := func(name string, data []byte) {
		fmt.Fprintf(&b, "%s, %d bytes\n", name, len(data))
		for len(data) > 0 {
			n := min(32, len(data))
			fmt.Fprintf(&b, "  %x\n", data[:n])
			data = data[n:]
		}
	}
	tree := s.tree(&o)
	for i, name := range []string{"chunk 256", "node 1 of level 1", "node 0 of level 2, the root"} {
		r := packs.refs[i]
		if i > 0 {
			shape := tree.shape.at(i, int64(2-i))
			n, err := tree.node(t.Context(), i, int64(2-i))
			if err != nil {
				t.Fatal(err)
			}
			dump(name, appendPackedNode(nil, shape, n.children))
			dump("  its content hash", n.c[:])
		} else {
			plain, err := s.Open(t.Context(), &r, nil)
			if err != nil {
				t.Fatal(err)
			}
			dump(name, plain)
		}
		dump("  sealed", packs.pack[r.Offset:r.Offset+r.Stored])
	}
	dump("the object", AppendPackedObject(nil, &o))
	dump("its placeless form", AppendPackedContent(nil, &o))
	return b.String()
}
