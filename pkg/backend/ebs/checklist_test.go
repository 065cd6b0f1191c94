package ebs

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestChecklist: all tests that docs/ebs.md names exist.
func TestChecklist(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/ebs.md")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	define := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	for _, root := range []string{"pkg", "cmd"} {
		err := filepath.WalkDir(filepath.Join("../../..", root), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			for _, m := range define.FindAllSubmatch(b, -1) {
				have[string(m[1])] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	named := regexp.MustCompile("`(Test\\w+)`").FindAllSubmatch(doc, -1)
	if len(named) < 40 || !bytes.Contains(doc, []byte("## Checklist")) {
		t.Fatalf("%d tests are named", len(named))
	}
	for _, m := range named {
		if !have[string(m[1])] {
			t.Errorf("there is no %s", m[1])
		}
	}
}
