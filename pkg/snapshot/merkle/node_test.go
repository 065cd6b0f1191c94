package merkle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// TestNodeEncoding: a node has one encoding, although others would have the same content hash.
func TestNodeEncoding(t *testing.T) {
	c := smallConfig(nil)
	b := newBuilder(&c, 0)
	for _, k := range []logical.Key{{Ino: 5, Type: 1, Sub: 1}, {Ino: 5, Type: 1, Sub: 300}, {Ino: 5, Type: 4, Sub: 1}, {Ino: 300, Type: 1}} {
		if _, err := b.add(k, []byte("\x00value")); err != nil {
			t.Fatal(err)
		}
	}
	raw, content := b.finish()
	want := []byte("\x10\x01\x00\x00\x04\x00\x00\x00" + "\x05\x01\x01\x06\x00value" + "\x00\x01\xab\x02\x06\x00value" + "\x00\x04\x01\x06\x00value" + "\xa7\x02\x01\x00\x06\x00value")
	if !bytes.Equal(raw, want) {
		t.Fatalf("%q", raw)
	}
	n, err := c.decodeNode(raw)
	if err != nil || n.content != content {
		t.Fatal(err)
	}
	// at returns the node with n bytes at an offset replaced.
	at := func(off, n int, with string) []byte {
		return slices.Replace(bytes.Clone(raw), off, off+n, []byte(with)...)
	}
	overflow := string(binary.AppendUvarint(nil, ^uint64(0)))
	for name, bad := range map[string][]byte{
		"a reserved byte":               at(3, 1, "\x01"),
		"a length with a needless byte": at(11, 1, "\x86\x00"),
		"an inode with a needless byte": at(8, 1, "\x85\x00"),
		"a sub with a needless byte":    at(10, 1, "\x81\x00"),
		"a varint that is too long":     at(10, 1, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
		"a sub that overflows":          at(20, 2, overflow),
		"an inode that overflows":       at(len(raw)-11, 2, overflow),
		"the sub before, again":         at(20, 2, "\x00"),
		"too short":                     raw[:len(raw)-1],
		"only a header":                 raw[:nodeHeaderBytes],
		"nothing":                       nil,
		"another kind":                  at(0, 1, "\x11"),
		"more than a node can have":     append(bytes.Clone(raw), make([]byte, MaxNodeBytes)...),
	} {
		if _, err := c.decodeNode(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNodeLength: a reference whose chunk is too long for a node is not read, and what is read has
// the length of its reference.
func TestNodeLength(t *testing.T) {
	nodes := &fakeNodes{}
	c, root, _ := smallMap(t, nodes)
	for name, length := range map[string]uint32{"too long": MaxNodeBytes + 1, "another": root.Ref.Length + 1} {
		bad := root
		bad.Ref.Length, bad.Ref.Stored = length, length+16
		nodes.gets = 0
		_, _, err := Open(c, bad).Get(t.Context(), logical.Key{Ino: 1})
		if !errors.Is(err, ErrInvalid) || name == "too long" && nodes.gets != 0 {
			t.Errorf("%s: %d reads, %v", name, nodes.gets, err)
		}
	}
	if MaxNodeBytes > selfenc.V2MaxChunk {
		t.Error("a node may be too long for a chunk")
	}
}
