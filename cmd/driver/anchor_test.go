package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
)

// TestRolledBack: given the anchor of a volume's last state, an older state of its device is not
// mounted, and a blank device is not formatted.
func TestRolledBack(t *testing.T) {
	t.Setenv(envEngine, "1")
	r := newRig(t)
	r.start("all", 0)
	r.connect("all", "all")
	w := &workflow{r: r}
	w.run(w.up())
	m := mounter.Client{Socket: mounter.SocketPath(r.path("mounter"))}
	image := r.path("local/images/" + w.id + ".img")

	write := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(w.target(), name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	w.run(w.down()[:2])
	old, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	w.run(w.up())
	write("two")
	var anchor json.RawMessage
	if err := (control.Client{Path: mounter.ControlPath(r.path("mounter"), w.id)}).Do(r.ctx(), control.Request{Op: "anchor"}, &anchor); err != nil {
		t.Fatal(err)
	}
	w.run(w.down()[:2])

	mount := func(anchor string) error { return w.mountAnchored(m, image, anchor) }
	if err := mount(string(anchor)); err != nil {
		t.Fatal("the newest state:", err)
	}
	if err := mount("nonsense"); !errors.Is(err, mounter.ErrInvalid) {
		t.Error("a malformed anchor:", err)
	}
	newest, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	put := func(b []byte) { overwriteImage(t, image, b) }
	for what, content := range map[string][]byte{"an older state": old, "a blank device": make([]byte, len(old))} {
		put(content)
		if err := mount(string(anchor)); !errors.Is(err, mounter.ErrRolledBack) {
			t.Errorf("%s: %v", what, err)
		}
		if b, err := os.ReadFile(image); err != nil || !bytes.Equal(b, content) {
			t.Errorf("%s was written to, or %v", what, err)
		}
	}
	put(old)
	if err := mount(""); err != nil {
		t.Error("the older state, without an anchor:", err)
	}
	put(newest)
	if err := mount(string(anchor)); err != nil {
		t.Error("the newest state again:", err)
	}
	w.run(w.up())
	for _, name := range []string{"one", "two"} {
		if b, err := os.ReadFile(filepath.Join(w.target(), name)); err != nil || string(b) != name {
			t.Errorf("%s: %q %v", name, b, err)
		}
	}
	w.run(w.down())
	r.wantClean()
}

// mountAnchored returns the result of a mount with an anchor, and unmounts again.
func (w *workflow) mountAnchored(m mounter.Client, image, anchor string) error {
	w.r.t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(image, &st); err != nil {
		w.r.t.Fatal(err)
	}
	kek, err := hex.DecodeString(w.secrets()["kek"])
	if err != nil {
		w.r.t.Fatal(err)
	}
	keys, err := mounter.NewKeys(kek, nil)
	if err != nil {
		w.r.t.Fatal(err)
	}
	err = m.Mount(w.r.ctx(), mounter.MountRequest{Volume: w.id, Source: "sealvol:" + w.id, Target: w.staging(), Keys: keys, Anchor: anchor, Format: &mounter.Format{},
		Device: mounter.Device{Path: image, SizeBytes: st.Size, Dev: st.Dev, Ino: st.Ino}})
	return errors.Join(err, m.Unmount(w.r.ctx(), mounter.UnmountRequest{Volume: w.id, Source: "sealvol:" + w.id, Target: w.staging()}))
}

// overwriteImage replaces the state of an image with another one.
func overwriteImage(t *testing.T, image string, b []byte) {
	t.Helper()
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(b, 0)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}
