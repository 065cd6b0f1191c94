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

// What helm test writes into a volume is found again; what was lost or changed is told.
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
	for range 2 { // also where a file is there
		if out, err := check(dir); err != nil || !strings.Contains(out, "4194304 bytes were written, synced and read again") {
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
		if err := readCheck(name, []byte("data")); err == nil || !strings.Contains(err.Error(), "does not keep") {
			t.Errorf("%q: %v", there, err)
		}
	}
}
