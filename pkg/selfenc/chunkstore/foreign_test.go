package chunkstore_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
)

// TestForeignFiles checks that a list contains no files that are no objects: Get would not accept
// their names, and a directory such as lost+found may not even be readable.
func TestForeignFiles(t *testing.T) {
	dir := t.TempDir()
	s, err := chunkstore.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if _, err := s.Put(t.Context(), "a/x", nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lost+found/y", "a/x~", "a/with space", "a/.hidden", "a/\xff"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for info, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, info.Key)
	}
	if !slices.Equal(got, []string{"a/x"}) {
		t.Errorf("%q", got)
	}
}
