package cluster

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNeedles: a key is found in every form and at every offset; another key is not.
func TestNeedles(t *testing.T) {
	raw := []byte("0123456789abcdef\x00\xff\x10\n6789abcdef--")
	digits := hex.EncodeToString(raw)
	var n Needles
	n.AddKey("k", []byte(digits+"\n"))
	n.AddKey("the same", raw)
	if n.Len() != 1 {
		t.Fatalf("%d keys", n.Len())
	}
	forms := map[string][]byte{"bytes": raw, "hexadecimal": []byte(digits), "upper case": []byte(strings.ToUpper(digits))}
	for offset := range 4 {
		for name, f := range map[string][]byte{"bytes": raw, "hexadecimal": []byte(digits)} {
			forms["base64 of "+name+" after "+strings.Repeat("x", offset)] = []byte(base64.StdEncoding.EncodeToString(
				append([]byte(strings.Repeat("x", offset)), append(f, "tail"...)...)))
		}
	}
	for name, f := range forms {
		for _, before := range []int{0, 1, 1<<20 - 40, 1<<20 - 1, 3 << 20} {
			path := filepath.Join(t.TempDir(), "hay")
			if err := os.WriteFile(path, append(bytes.Repeat([]byte("0123456789abcdef"), before/16+1)[:before], f...), 0o600); err != nil {
				t.Fatal(err)
			}
			found, err := n.InFile(path)
			if err != nil || len(found) != 1 || found[0] != "k" {
				t.Errorf("%s after %d bytes: %v, %v", name, before, found, err)
			}
		}
	}
	other := bytes.Clone(raw)
	other[31]++
	if found := n.In([]byte(hex.EncodeToString(other))); found != nil {
		t.Errorf("another key: %v", found)
	}
}
