package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func nothing(int64) {}

// TestVerify checks that every difference from the manifest is found.
func TestVerify(t *testing.T) {
	for _, c := range []struct {
		name, want string
		damage     func(root string) error
	}{
		{"nothing", "", func(string) error { return nil }},
		{"bit", "SHA-256", func(r string) error {
			at := time.Unix(1000, 5)
			name := filepath.Join(r, "tree/sub/file")
			if err := os.WriteFile(name, []byte("contenT"), 0o640); err != nil {
				return err
			}
			return os.Chtimes(name, at, at)
		}},
		{"size", "bytes instead", func(r string) error { return os.Truncate(filepath.Join(r, "tree/sub/file"), 3) }},
		{"mode", "mode", func(r string) error { return os.Chmod(filepath.Join(r, "tree/sub/file"), 0o600) }},
		{"time", "modified", func(r string) error {
			return os.Chtimes(filepath.Join(r, "tree/sub/file"), time.Now(), time.Now())
		}},
		{"lost", "1 files are lost", func(r string) error { return os.Remove(filepath.Join(r, "tree/sub/file")) }},
		{"lost directory", "files are lost", func(r string) error { return os.RemoveAll(filepath.Join(r, "tree/sub")) }},
		{"extra", "is not expected there", func(r string) error { return os.WriteFile(filepath.Join(r, "tree/new"), nil, 0o644) }},
		{"link", "a link to", func(r string) error {
			name := filepath.Join(r, "tree/link")
			if err := os.Remove(name); err != nil {
				return err
			}
			return os.Symlink("elsewhere", name)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			from, root := t.TempDir(), t.TempDir()
			at := time.Unix(1000, 5)
			name := filepath.Join(from, "sub/file")
			if err := os.Mkdir(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, []byte("content"), 0o640); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(name, at, at); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("sub/file", filepath.Join(from, "link")); err != nil {
				t.Fatal(err)
			}
			m := newManifest()
			if err := m.copyTree(t.Context(), from, root, "tree", nothing); err != nil {
				t.Fatal(err)
			}
			if files, size := m.count(); files != 4 || size != 7 {
				t.Fatal(files, size)
			}
			if err := c.damage(root); err != nil {
				t.Fatal(err)
			}
			err := m.verify(t.Context(), root, nothing)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v; want %q", err, c.want)
			}
		})
	}
}

// TestVerifyInterrupted checks that an interrupted verification ends immediately.
func TestVerifyInterrupted(t *testing.T) {
	m := newManifest()
	root := t.TempDir()
	if err := m.copyTree(t.Context(), ".", root, "tree", nothing); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.verify(ctx, root, nothing); err == nil {
		t.Error("it went on")
	}
}

// TestSearchImage checks that a fragment is found at any offset of a sparse image, including the
// borders of buffers, and that the control finds all fragments.
func TestSearchImage(t *testing.T) {
	root := t.TempDir()
	text := []byte("a confidential sentence, of which eight bytes are enough")
	if err := os.WriteFile(filepath.Join(root, "a-name-of-some-length"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	m := newManifest()
	if err := m.enter(t.Context(), root, "a-name-of-some-length", nothing); err != nil {
		t.Fatal(err)
	}
	if m.needles.len() != 3 { // the beginning and end of the name, and one of the content
		t.Fatal(m.needles.len())
	}
	if err := m.searchFiles(t.Context(), root, nothing); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "image")
	for _, at := range []int64{0, 1, 4093, bufBytes - 30, bufBytes - 1, 8<<20 + 7, 16<<20 - int64(len(text))} {
		for _, hide := range [][]byte{text, []byte("a-name-of"), []byte("me-length")} {
			f, err := os.Create(image)
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Truncate(16 << 20); err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte("other data"), 5<<20); err != nil {
				t.Fatal(err)
			}
			if n, err := m.needles.searchImage(t.Context(), image, nothing); err != nil || n == 0 || n > 1<<20 {
				t.Fatal(n, err)
			}
			if _, err := f.WriteAt(hide, at); err != nil {
				t.Fatal(err)
			}
			f.Close()
			if _, err := m.needles.searchImage(t.Context(), image, nothing); err == nil || !strings.Contains(err.Error(), "plaintext") {
				t.Errorf("%q at %d: %v", hide, at, err)
			}
		}
	}
	// A search that cannot find anything must fail.
	m.needles.add(binary.BigEndian.AppendUint64(nil, 0x0102030405060708))
	if err := m.searchFiles(t.Context(), root, nothing); err == nil {
		t.Error("the control found what is not there")
	}
}

func TestJournal(t *testing.T) {
	for _, c := range []struct {
		lines, synced int
		rest          string
		ok            bool
	}{
		{5, 5, "", true}, {6, 5, "", true}, {5, 5, "line 000", true}, {4, 5, "", false}, {7, 5, "", false},
		{5, 5, "\x00\x00\x00", false}, {0, 0, "", true}, {0, 1, "", false},
	} {
		root := t.TempDir()
		var b bytes.Buffer
		for i := range c.lines {
			b.WriteString(journalLine(i))
		}
		b.WriteString(c.rest)
		if err := os.WriteFile(filepath.Join(root, journalName), b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := (&journal{}).check(root, c.synced); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
