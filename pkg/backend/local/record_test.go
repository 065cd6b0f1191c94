package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/backendtest"
)

func TestDamagedRecords(t *testing.T) {
	good := fmt.Sprintf(`{"version":1,"id":%q,"name":"a","state":"ready","sizeBytes":%d}`, newID(volPrefix, "a"), size)
	hash := hashName("a")
	if _, err := decodeRecord([]byte(good), volPrefix, hash); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "{", "[]", strings.Replace(good, `"version":1`, `"version":2`, 1),
		strings.Replace(good, `"name":"a"`, `"name":"b"`, 1), strings.Replace(good, "ready", "raedy", 1),
		strings.Replace(good, fmt.Sprint(size), "-1", 1), strings.Replace(good, "lv-", "../", 1)} {
		if _, err := decodeRecord([]byte(bad), volPrefix, hash); !errors.Is(err, backend.ErrDamaged) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestDamagedRecordAmongOthers: a damaged record does not affect other volumes, and is never
// overwritten.
func TestDamagedRecordAmongOthers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "v")
	b := open(t, Options{Dir: dir})
	bad := backendtest.Must[backend.Volume](t)(b.Create(t.Context(), backend.Spec{Name: "bad", RequiredBytes: size}))
	good := backendtest.Must[backend.Volume](t)(b.Create(t.Context(), backend.Spec{Name: "good", RequiredBytes: size}))
	shut(t, b)
	rec := filepath.Join(dir, "volumes", hashName("bad")+".json")
	if err := os.WriteFile(rec, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	b = open(t, Options{Dir: dir})
	if _, err := b.Get(t.Context(), bad.ID); !errors.Is(err, backend.ErrDamaged) {
		t.Fatal(err)
	}
	if _, err := b.Create(t.Context(), backend.Spec{Name: "bad", RequiredBytes: size}); !errors.Is(err, backend.ErrDamaged) {
		t.Fatal(err)
	}
	if err := b.Delete(t.Context(), bad.ID); !errors.Is(err, backend.ErrDamaged) {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(rec); err != nil || string(raw) != "{" {
		t.Fatal(string(raw), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "images", bad.ID+".img")); err != nil {
		t.Fatal(err)
	}
	backendtest.Must[backend.Volume](t)(b.Get(t.Context(), good.ID))
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"lv-","name":"a"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b, volPrefix, hashName("a"))
		if err == nil && hashName(r.Name) != hashName("a") {
			t.Fatal("accepted a foreign record")
		}
	})
}
