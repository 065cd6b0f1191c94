package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What helm test writes into a volume is found again; what was lost or changed is told.
func TestCheckVolume(t *testing.T) {
	dir := t.TempDir()
	check := func(args ...string) (string, error) {
		var out bytes.Buffer
		c := command(io.Discard)
		c.SetOut(&out)
		c.SetArgs(append([]string{"check-volume"}, args...))
		err := c.Execute()
		return out.String(), err
	}
	if _, err := check("read", dir); !os.IsNotExist(err) {
		t.Fatalf("nothing was written: %v", err)
	}
	if out, err := check("write", dir); err != nil || !strings.Contains(out, "written and synced") {
		t.Fatal(out, err)
	}
	if out, err := check("read", dir); err != nil || !strings.Contains(out, "are what was written") {
		t.Fatal(out, err)
	}
	name := filepath.Join(dir, checkFile)
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Clone(good)
	changed[len(changed)-1]++
	for want, data := range map[string][]byte{"the volume has changed it": changed, "lost what was synced": good[:100], "has 0 bytes": nil} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := check("read", dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, not %q", err, want)
		}
	}
	if _, err := check("both", dir); err == nil || !strings.Contains(err.Error(), "neither") {
		t.Error(err)
	}
}
