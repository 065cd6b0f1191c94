package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// asNobody starts a demo as an unprivileged user, in a mount namespace whose /dev/fuse has the
// given mode.
func asNobody(t *testing.T, mode string) (out string, err error) {
	t.Helper()
	if out, err := exec.Command("go", "build", "-o", programs, ".").CombinedOutput(); err != nil {
		t.Fatal(string(out))
	}
	dir, err := os.MkdirTemp("", "sealvol-demo-nobody-") //nolint:usetesting // t.TempDir is below a directory that others cannot enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) }) //nolint:errcheck // a directory below the system's temporary one
	temp, home := filepath.Join(dir, "temp"), filepath.Join(dir, "home")
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, perm := range map[string]os.FileMode{temp: 0o777, home: 0o777} {
		if err := os.Mkdir(name, perm); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, perm); err != nil {
			t.Fatal(err)
		}
	}
	// The mounts are in another namespace, so the demo's own timeout must end calls that hang.
	const script = `mknod -m "$1" "$2/fuse" c 10 229 && mount --bind "$2/fuse" /dev/fuse &&
		exec setpriv --reuid 65534 --regid 65534 --clear-groups "$3/demo" -timeout 2m -quick -skip compile -dir "$2/temp"`
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", mode, dir, programs)
	cmd.Env = append(os.Environ(), "HOME="+home)
	b, err := cmd.CombinedOutput()
	if entries, err := os.ReadDir(temp); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if list := children(); len(list) > 0 {
		t.Errorf("left running: %v", list)
	}
	return string(b), err
}

// TestUnprivileged checks that a user who may open /dev/fuse can run the whole demo without root.
func TestUnprivileged(t *testing.T) {
	if out, err := asNobody(t, "666"); err != nil || !strings.Contains(out, "no image, mount, record or process is left") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestNoFuse checks the error for a user who may not open /dev/fuse.
func TestNoFuse(t *testing.T) {
	if out, err := asNobody(t, "600"); err == nil || !strings.Contains(out, "/dev/fuse cannot be opened by this user") {
		t.Errorf("%v\n%s", err, out)
	}
}
