package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReport measures a package of four files, three of which form a cycle: through a function, a
// method and a field.
func TestReport(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.com/house\n\ngo 1.26\n",
		"a.go":   "package house\n\ntype House struct{ doors, keys int }\n\nfunc (h *House) open() { knock() }\n",
		"b.go":   "package house\n\nfunc knock() { var h House; h.lock() }\n",
		"c.go":   "package house\n\nfunc (h *House) lock() { h.keys++ }\n",
		"d.go":   "package house\n\nimport \"errors\"\n\n// Err is used by nobody here.\nvar Err = errors.New(\"locked\")\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := load(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := report(&b, p, "House", ""); err != nil {
		t.Fatal(err)
	}
	const want = `House: 2 fields, 2 methods
example.com/house: 4 files, 17 lines
largest strongly connected component: 3 files, 11 lines
  a.go
  b.go
  c.go
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}
