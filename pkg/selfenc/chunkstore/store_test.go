package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
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

// TestDirLeavesNothing checks that neither successful nor failed writes leave temporary files.
func TestDirLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	d := openDir(t, dir)
	if _, err := d.Put(t.Context(), "a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	// A file is in the place of a directory.
	if _, err := d.Put(t.Context(), "a/b/c", []byte("x")); err == nil {
		t.Error("an object lies below another")
	}
	if err := d.Replace(t.Context(), "a", []byte("x")); err == nil {
		t.Error("an object replaces a directory")
	}
	if left, err := os.ReadDir(filepath.Join(dir, ".tmp")); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	// Temporary files of a dead process are removed when they are old.
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

// TestDirLinks checks that no link leads out of the store.
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

// TestDirProcesses puts the same objects in several processes. Exactly one process must store each
// object, completely.
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

// TestDirKilled puts, replaces and reads the same objects in several processes, and kills each at a
// random time. All acknowledged objects must exist, and all objects must be complete.
func TestDirKilled(t *testing.T) {
	const env = "CHUNKSTORE_TEST_KILLED"
	const count = 300
	data := func(i int) []byte { return bytes.Repeat([]byte{byte(i), byte(i >> 8), 7}, 50_000+i) }
	if dir := os.Getenv(env); dir != "" {
		killedWriter(t, dir, count, data)
		return
	}
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	acknowledged := make([]map[int]bool, 8)
	for p := range acknowledged {
		acknowledged[p] = map[int]bool{}
		c := exec.CommandContext(t.Context(), exe, "-test.run", "^TestDirKilled$")
		c.Env = append(os.Environ(), env+"="+dir)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for range 5 + rand.IntN(40) {
				var i int
				if _, err := fmt.Fscanln(out, &i); err != nil {
					t.Errorf("process %d: %v", p, err)
					break
				}
				acknowledged[p][i] = true
			}
			if err := c.Process.Kill(); err != nil {
				t.Error(err)
			}
			_ = c.Wait() // killed
		})
	}
	wg.Wait()
	d := openDir(t, dir)
	found := map[string]bool{}
	for i, err := range d.List(t.Context(), "x/", "") {
		if err != nil {
			t.Fatal(err)
		}
		found[i.Key] = true
		var n int
		if _, err := fmt.Sscanf(i.Key, "x/%d", &n); err != nil {
			t.Fatal(err)
		}
		if b, err := d.Get(t.Context(), i.Key, nil, 1<<20); err != nil || !bytes.Equal(b, data(n)) {
			t.Errorf("%s: %d bytes, %v", i.Key, len(b), err)
		}
	}
	for p, list := range acknowledged {
		for i := range list {
			if !found[fmt.Sprintf("x/%d", i)] {
				t.Errorf("process %d had stored object %d, which is not there", p, i)
			}
		}
	}
}

// killedWriter is one of the processes.
func killedWriter(t *testing.T, dir string, count int, data func(int) []byte) {
	t.Helper()
	d := openDir(t, dir)
	for {
		i := rand.IntN(count)
		key := fmt.Sprintf("x/%d", i)
		var err error
		if rand.IntN(3) == 0 {
			err = d.Replace(context.Background(), key, data(i))
		} else {
			_, err = d.Put(context.Background(), key, data(i))
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println(i)
		j := rand.IntN(count)
		b, err := d.Get(context.Background(), fmt.Sprintf("x/%d", j), nil, 1<<20)
		if err != nil && !errors.Is(err, chunkstore.ErrNotFound) || err == nil && !bytes.Equal(b, data(j)) {
			t.Fatalf("object %d: %d bytes, %v", j, len(b), err)
		}
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
