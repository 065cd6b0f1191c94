package selfenc

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
)

var update = flag.Bool("update", false, "update the examples in docs/selfenc-format.md and docs/snapshot-format.md")

const document = "../../docs/selfenc-format.md"

// TestDocument compares the example in the document with the output of the code.
func TestDocument(t *testing.T) {
	const begin, end = "-update -->\n```\n", "```\n<!-- end -->"
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	got, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("no example")
	}
	if want := example(t); got != want {
		if *update {
			if err := os.WriteFile(document, []byte(before+begin+want+end+after), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		t.Errorf("the example should be\n%s", want)
	}
}

func example(t *testing.T) string {
	store := &memoryStore{}
	s := sealerOf(t, 7, crypto.SuiteXChaCha20Poly1305, store, Options{ChunkBytes: V2MinChunk})
	o, err := s.Encrypt(t.Context(), strings.NewReader("hello, world!"))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := s.SealObject(o)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	dump := func(name string, data []byte) {
		fmt.Fprintf(&b, "%s, %d bytes\n", name, len(data))
		for len(data) > 0 {
			n := min(32, len(data))
			fmt.Fprintf(&b, "  %x\n", data[:n])
			data = data[n:]
		}
	}
	dump("name", o.Root.Name[:])
	dump("stored chunk", store.chunks[o.Root.Name])
	dump("record", o.appendRecord(nil))
	dump("sealed object", sealed)
	return b.String()
}

// TestNamesStay checks that the names of chunks do not change. If an encoder compresses
// differently, chunks get other names, and all data is stored again. If a new version of a library
// does this, it must be a deliberate decision and be listed in the changelog.
func TestNamesStay(t *testing.T) {
	var g golden
	goldenJSON(t, "manifest.json", &g)
	for _, c := range []struct {
		kind string
		size int
		name string
	}{
		{"random", 1 << 20, "262895fb69d83fdade28312985c5360276eecd1b459a0d330d8422b28f00276f"},
		{"text", 1 << 20, "96f386a8d29ba3b9cf652efe3d6debeb3fff5adde6819f22894cb540962259e1"},
		{"mixed", 700_000, "91053981f56c789a941d0a231d538e9db5cad7b9930aea248923202e13893323"},
		{"text", 3<<20 + 5, "c43178b6a49e67a0f8d08dfb8ae2acdb1bdb1a0aa27c05b7afb824319cbf590d"},
	} {
		o, err := testSealer(t, &memoryStore{}, Options{}).Encrypt(t.Context(), bytes.NewReader(g.generate(c.kind, c.size)))
		if err != nil {
			t.Fatal(err)
		}
		if got := Name(o.Root.Name).String(); got != c.name {
			t.Errorf("%d bytes of %s: the root is %s", c.size, c.kind, got)
		}
	}
}
