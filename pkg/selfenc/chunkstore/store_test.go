package chunkstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore/chunkstoretest"
)

func TestMemory(t *testing.T) {
	var last *chunkstore.Memory
	chunkstoretest.Run(t, func(_ *testing.T, again bool) chunkstore.Store {
		if !again {
			last = chunkstore.NewMemory()
		}
		return last
	})
}

func openDir(t *testing.T, dir string) *chunkstore.Dir {
	t.Helper()
	d, err := chunkstore.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestDir(t *testing.T) {
	var dir string
	chunkstoretest.Run(t, func(t *testing.T, again bool) chunkstore.Store {
		if !again {
			dir = t.TempDir()
		}
		return openDir(t, dir)
	})
}

func TestS3(t *testing.T) {
	server, n := chunkstore.FakeS3(t, nil), 0
	chunkstoretest.Run(t, func(t *testing.T, again bool) chunkstore.Store {
		if !again {
			n++
		}
		return chunkstore.OpenFake(t, server, fmt.Sprintf("some/prefix-%d", n), 3)
	})
}

// TestDirLeavesNothing: neither of a finished nor of a failed object.
func TestDirLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	d := openDir(t, dir)
	if _, err := d.Put(t.Context(), "a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	// A file where a directory should be.
	if _, err := d.Put(t.Context(), "a/b/c", []byte("x")); err == nil {
		t.Error("an object lies below another")
	}
	if err := d.Replace(t.Context(), "a", []byte("x")); err == nil {
		t.Error("an object replaces a directory")
	}
	if left, err := os.ReadDir(filepath.Join(dir, ".tmp")); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	// What a process that died left is removed, once it is old.
	for name, age := range map[string]time.Duration{"old": 48 * time.Hour, "new": time.Hour} {
		f := filepath.Join(dir, ".tmp", name)
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(f, when, when); err != nil {
			t.Fatal(err)
		}
	}
	openDir(t, dir)
	left, err := os.ReadDir(filepath.Join(dir, ".tmp"))
	if err != nil || len(left) != 1 || left[0].Name() != "new" {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestDirLinks: no link leads out of the store.
func TestDirLinks(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "x"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	d := openDir(t, dir)
	if b, err := d.Get(t.Context(), "a/x", nil, 100); err == nil {
		t.Errorf("read %q through a link", b)
	}
	if _, err := d.Put(t.Context(), "a/y", []byte("y")); err == nil {
		t.Error("wrote through a link")
	}
	if err := d.Delete(t.Context(), "a/x"); err == nil {
		t.Error("deleted through a link")
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 1 {
		t.Errorf("outside: %v, %v", left, err)
	}
}

// TestDirProcesses: several processes put the same objects; each is stored by
// exactly one of them, and whole.
func TestDirProcesses(t *testing.T) {
	const env = "CHUNKSTORE_TEST_DIR"
	const count = 200
	data := func(i int) []byte { return []byte(strings.Repeat(fmt.Sprint(i, ","), 1000)) }
	if dir := os.Getenv(env); dir != "" { // one of the processes
		d := openDir(t, dir)
		if _, err := io.ReadAll(os.Stdin); err != nil { // all start together
			t.Fatal(err)
		}
		for i := range count {
			created, err := d.Put(t.Context(), fmt.Sprintf("x/%d", i), data(i))
			if err != nil {
				t.Fatal(err)
			}
			if created {
				fmt.Println("created", i)
			}
		}
		return
	}
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	gate, open, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	var running []*exec.Cmd
	var outs [3]strings.Builder
	for i := range outs {
		c := exec.CommandContext(t.Context(), exe, "-test.run", "^TestDirProcesses$")
		c.Env = append(os.Environ(), env+"="+dir)
		c.Stdin, c.Stdout, c.Stderr = gate, &outs[i], os.Stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		running = append(running, c)
	}
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}
	created := 0
	for i, c := range running {
		if err := c.Wait(); err != nil {
			t.Errorf("%v: %s", err, outs[i].String())
		}
		created += strings.Count(outs[i].String(), "created ")
	}
	if created != count {
		t.Errorf("%d objects were stored %d times", count, created)
	}
	d := openDir(t, dir)
	for i := range count {
		if b, err := d.Get(t.Context(), fmt.Sprintf("x/%d", i), nil, 1<<20); err != nil || string(b) != string(data(i)) {
			t.Errorf("object %d: %v", i, err)
		}
	}
}

// TestDirKilled kills a writer somewhere: what is there is whole.
func TestDirKilled(t *testing.T) {
	const env = "CHUNKSTORE_TEST_KILLED"
	data := []byte(strings.Repeat("0123456789abcdef", 1<<16))
	if dir := os.Getenv(env); dir != "" {
		d := openDir(t, dir)
		for i := 0; ; i++ {
			if _, err := d.Put(context.Background(), fmt.Sprintf("x/%d", i), data); err != nil {
				t.Fatal(err)
			}
			fmt.Println(i)
		}
	}
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), exe, "-test.run", "^TestDirKilled$")
	c.Env = append(os.Environ(), env+"="+dir)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	acknowledged := 0
	for acknowledged < 5 {
		if _, err := fmt.Fscanln(out, &acknowledged); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // killed
	d := openDir(t, dir)
	found := 0
	for i, err := range d.List(t.Context(), "x/") {
		if err != nil {
			t.Fatal(err)
		}
		if b, err := d.Get(t.Context(), i.Key, nil, len(data)); err != nil || string(b) != string(data) {
			t.Errorf("%s: %v", i.Key, err)
		}
		found++
	}
	if found <= acknowledged {
		t.Errorf("%d objects, %d were acknowledged", found, acknowledged+1)
	}
}

func TestDirClosed(t *testing.T) {
	d := openDir(t, t.TempDir())
	if _, err := chunkstore.OpenDir(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("open a directory that is not there: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Put(t.Context(), "x", nil); err == nil {
		t.Error("put after Close")
	}
}
