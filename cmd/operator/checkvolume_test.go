package main

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCheckVolume: the command reads back what it has written, and reports lost or changed data.
func TestCheckVolume(t *testing.T) {
	dir := t.TempDir()
	check := func(dir string) (string, error) {
		var out bytes.Buffer
		c := command(io.Discard)
		c.SetOut(&out)
		c.SetArgs([]string{"check-volume", dir})
		err := c.Execute()
		return out.String(), err
	}
	for range 2 { // also if the file exists
		if out, err := check(dir); err != nil || !strings.Contains(out, "wrote, synced and read back 4194304 bytes") {
			t.Fatal(out, err)
		}
	}
	if _, err := check(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	name := filepath.Join(dir, "file")
	for _, there := range []string{"", "datA", "data!"} {
		if err := os.WriteFile(name, []byte(there), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := readCheck(name, []byte("data")); err == nil || !strings.Contains(err.Error(), "loses or changes data") {
			t.Errorf("%q: %v", there, err)
		}
	}
}
