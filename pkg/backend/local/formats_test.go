package local

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealvol/sealvol/pkg/backend"
)

// damagedFormats are neither used nor overwritten.
func damagedFormats(t *testing.T, node *Backend, file, id string) {
	t.Helper()
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "{", `{"version":1,"id":"another","state":"formatted"}`, `{"version":2,"id":"` + id + `","state":"formatted"}`, `{"version":1,"id":"` + id + `"}`} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := node.FormatState(t.Context(), id); !errors.Is(err, backend.ErrDamaged) {
			t.Errorf("%q: %v", bad, err)
		}
		if err := node.KeepFormat(t.Context(), id, backend.FormatDone); !errors.Is(err, backend.ErrDamaged) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFormats: the state that the node half records is there for the next one, never goes back,
// fails closed, and is deleted only with its volume.
func TestFormats(t *testing.T) {
	dir := t.TempDir()
	var fail error
	o := Options{Dir: dir, Node: "n"}
	owner, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, owner)
	o.NodeOnly, o.Hook = true, func(string) error { return fail }
	node, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, node)
	v, err := owner.Create(t.Context(), backend.Spec{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	want := func(w backend.FormatState) {
		t.Helper()
		for _, b := range []*Backend{owner, node} {
			if got, err := b.FormatState(t.Context(), v.ID); got != w || err != nil {
				t.Fatalf("%q, %v, want %q", got, err, w)
			}
		}
	}
	want(backend.FormatNone)
	if err := node.KeepFormat(t.Context(), v.ID, "what"); !errors.Is(err, backend.ErrInvalid) {
		t.Error(err)
	}
	for _, s := range []backend.FormatState{backend.FormatBegun, backend.FormatDone} {
		fail = errors.New("the disk is broken")
		if err := node.KeepFormat(t.Context(), v.ID, s); !errors.Is(err, fail) {
			t.Error(err)
		}
		fail = nil
		if err := node.KeepFormat(t.Context(), v.ID, s); err != nil {
			t.Error(err)
		}
		want(s)
		fail = errors.New("the disk is broken") // what can be read may still not be durable
		if err := node.KeepFormat(t.Context(), v.ID, s); !errors.Is(err, fail) {
			t.Error(err)
		}
		fail = nil
	}
	if err := node.KeepFormat(t.Context(), v.ID, backend.FormatBegun); err != nil {
		t.Error(err)
	}
	want(backend.FormatDone)

	damagedFormats(t, node, filepath.Join(dir, "formats", v.ID+".json"), v.ID)
	if err := owner.Delete(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := node.FormatState(t.Context(), v.ID); !errors.Is(err, backend.ErrNotFound) {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "formats")); err != nil || len(left) > 0 {
		t.Error(left, err)
	}
	if v, err = owner.Create(t.Context(), backend.Spec{Name: "a"}); err != nil { // with the same name
		t.Fatal(err)
	}
	want(backend.FormatNone)
}

func mustClose(t *testing.T, b *Backend) {
	t.Helper()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}
