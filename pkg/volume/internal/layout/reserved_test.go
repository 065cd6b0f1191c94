package layout

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"
)

func TestReservedItems(t *testing.T) {
	for _, c := range []struct {
		first, blocks uint64
		ok            bool
	}{{0, 1, true}, {5, MaxReserved, true}, {0, 0, false}, {0, MaxReserved + 1, false}, {MaxFileBytes / BlockBytes, 1, true},
		{MaxFileBytes / BlockBytes, 2, false}, {1 << 62, 1, false}} {
		n, err := DecodeReserved(c.first, AppendReserved(nil, c.blocks))
		if c.ok && (err != nil || n != c.blocks) || !c.ok && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%d from %d: %d, %v", c.blocks, c.first, n, err)
		}
	}
	if _, err := DecodeReserved(0, make([]byte, 9)); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

func TestReservationsOfRoot(t *testing.T) {
	for _, bad := range []Reservations{{Promised: 1}, {Promised: 1, Owed: 2, Ranges: 1}, {Ranges: 1}, {Promised: MaxReserved + 1, Ranges: 1},
		{Promised: 1, Ranges: 2}, {Mark: 1 << 62}} {
		r := sampleRoot()
		r.Reserved = bad
		if _, err := DecodeRoot(r.Encode()); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestReservedInode(t *testing.T) {
	n := Inode{Mode: 0o100644, Nlink: 1}
	n.Flags, n.Vacant = InodeReserved, 7
	got, err := DecodeInode(n.Append(nil))
	if err != nil || got != n {
		t.Fatalf("%+v, %v", got, err)
	}
	n.Flags = 0
	if _, err := DecodeInode(n.Append(nil)); !errors.Is(err, ErrCorrupt) {
		t.Error("blocks of no range:", err)
	}
}

// TestReservedDocument compares the example of docs/format.md: items of a file of
// which blocks 16 to 271 are reserved, and block 16 has an extent that is shared.
func TestReservedDocument(t *testing.T) {
	const path = "../../../../docs/format.md"
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- example: reserved -->\n```\n", "```\n<!-- end -->"
	_, rest, found := strings.Cut(string(doc), begin)
	example, _, ok := strings.Cut(rest, end)
	if !found || !ok {
		t.Fatal("docs/format.md has no example of reserved ranges")
	}
	item := func(name string, k Key, v []byte) string {
		b := make([]byte, KeyBytes)
		k.Put(b)
		return name + "  " + hex.EncodeToString(b) + "  " + hex.EncodeToString(v) + "\n"
	}
	var root [reservationsBytes]byte
	(&Reservations{Promised: 256, Owed: 256, Ranges: 1, Mark: 0}).put(root[:])
	e := FileExtent{Record: sampleRecord(1, 0, 1), RefBirth: 5, Owed: true}
	v := e.Append(nil)
	want := item("0x02", Key{Type: KeyReserver, Sub: 77}, nil) + item("0x28", Key{Obj: 77, Type: KeyReserved, Sub: 16}, AppendReserved(nil, 256)) +
		"refbirth of 0x50  " + hex.EncodeToString(v[len(v)-FileExtentBytes:]) + "\n" + "root at 2584  " + hex.EncodeToString(root[:]) + "\n"
	if example = strings.ReplaceAll(example, "  \n", "\n"); example != strings.ReplaceAll(want, "  \n", "\n") {
		t.Errorf("the example differs; this is right:\n%s", want)
	}
	if got, err := DecodeFileExtent(v); err != nil || !got.Owed || got.RefBirth != 5 || !bytes.Equal(got.Append(nil), v) {
		t.Fatalf("%+v, %v", got, err)
	}
}
