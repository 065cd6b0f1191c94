package mounter_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
)

// TestKeysAreNowhere searches the places where processes leak for the key: arguments, environment,
// state and log.
func TestKeysAreNowhere(t *testing.T) {
	r := newRig(t)
	r.start(0)
	q := r.request()
	secret := "0123456789abcdefSECRETSECRETSECR"
	q.Keys, _ = mounter.NewKeys([]byte(secret), nil)
	if s := fmt.Sprintf("%v %+v %#v %s", q, q, q, q.Keys); strings.Contains(s, "SECRET") || strings.Contains(s, "83, 69, 67") || strings.Contains(s, "0x53, 0x45") {
		t.Fatalf("printed: %s", s)
	}
	if err := r.client.Mount(r.ctx(), q); err != nil {
		t.Fatal(err)
	}
	pid := r.health().PID
	for _, p := range []int{pid, r.cmd.Process.Pid} {
		for _, f := range []string{"cmdline", "environ"} {
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p, f)); err != nil || bytes.Contains(b, []byte("SECRET")) {
				t.Fatalf("%s of %d: %v", f, p, err)
			}
		}
	}
	err := filepath.Walk(r.dir, func(p string, fi os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if fi.Mode().IsRegular() && fi.Size() < 1<<20 {
			if b, _ := os.ReadFile(p); bytes.Contains(b, []byte("SECRET")) {
				t.Errorf("in %s", p)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	r.unmount()
}

// TestCgroup: each server has a cgroup of its own, which is removed with it.
func TestCgroup(t *testing.T) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	if err != nil {
		t.Fatal(err)
	}
	if len(mounts) == 0 {
		t.Log("no cgroup v2 here: nothing to try")
		return
	}
	parent := filepath.Join(mounts[0].Mountpoint, fmt.Sprintf("sealvol-test-%d", os.Getpid()))
	if err := os.Mkdir(parent, 0o755); err != nil {
		t.Logf("cgroups are not to be made here: %v", err)
		return
	}
	t.Cleanup(func() {
		if err := os.Remove(parent); err != nil {
			t.Error(err)
		}
	})
	r := newRig(t, "SEALVOL_TEST_CGROUP="+parent)
	r.start(0)
	r.mount()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", r.health().PID))
	if err != nil || !strings.Contains(string(b), filepath.Base(parent)+"/sealvol-") {
		t.Fatalf("%s %v", b, err)
	}
	r.unmount()
	if entries, err := filepath.Glob(parent + "/sealvol-*"); err != nil || len(entries) != 0 {
		t.Fatal(entries, err)
	}
}

// TestUnprivileged: a server runs as another user, and can be found by its mount.
func TestUnprivileged(t *testing.T) {
	r := newRig(t, "SEALVOL_TEST_UID=65534")
	r.env = append(r.env, "SEALVOL_TEST_EXE="+r.path("exe"))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.path("exe"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	// That user must be able to reach the program and its data.
	for d := r.dir; d != "/"; d = filepath.Dir(d) {
		if fi, err := os.Stat(d); err != nil || fi.Mode().Perm()&0o001 == 0 {
			if err := os.Chmod(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Chmod(r.path("data"), 0o777); err != nil {
		t.Fatal(err)
	}
	r.start(0)
	r.mount()
	r.write("hello")
	i := r.health()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", i.PID))
	if err != nil || !strings.Contains(string(b), "Uid:\t65534\t65534\t65534\t65534") || !strings.Contains(string(b), "CapEff:\t0000000000000000") {
		t.Fatalf("%s %v", b, err)
	}
	if _, err := control.Find(r.path("other")); err == nil {
		t.Fatal("found a server for a plain directory")
	}
	c, err := control.Find(r.path("target"))
	if err != nil {
		t.Fatal(err)
	}
	if s, err := c.Status(r.ctx()); err != nil || s.PID != i.PID {
		t.Fatal(s, err)
	}
	r.unmount()
	r.wantClean()
}
