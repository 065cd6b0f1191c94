package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/backendtest"
	"golang.org/x/sys/unix"
)

// life takes a volume through all states. It can be repeated from the start after any failure.
func life(ctx context.Context, b *Backend) error {
	v, err := b.Create(ctx, backend.Spec{Name: "a", RequiredBytes: size})
	if errors.Is(err, backend.ErrExists) {
		return err
	}
	if err != nil {
		return err
	}
	if _, err := b.Attach(ctx, v.ID, "node-1", false); err != nil {
		return err
	}
	if n, err := b.Expand(ctx, v.ID, 2*size, 0); err != nil || n != 2*size {
		return fmt.Errorf("expanded to %d: %w", n, err)
	}
	d, err := b.Device(ctx, v.ID, nil)
	if err != nil || d.SizeBytes != 2*size {
		return fmt.Errorf("device has %d bytes: %w", d.SizeBytes, err)
	}
	if err := markImage(d.Path); err != nil {
		return err
	}
	snap, err := b.CreateSnapshot(ctx, backend.SnapshotSpec{Name: "a", Volume: v.ID})
	if err != nil {
		return err
	}
	of, err := b.Create(ctx, backend.Spec{Name: "of snapshot", RequiredBytes: 2*size + Align, Source: &backend.Source{Snapshot: snap.ID}})
	if err != nil {
		return err
	}
	clone, err := b.Create(ctx, backend.Spec{Name: "clone", Source: &backend.Source{Volume: v.ID}})
	if err != nil {
		return err
	}
	if err := errors.Join(b.Delete(ctx, of.ID), b.Delete(ctx, clone.ID)); err != nil {
		return err
	}
	if err := b.DeleteSnapshot(ctx, snap.ID); err != nil {
		return err
	}
	if err := b.Detach(ctx, v.ID, ""); err != nil {
		return err
	}
	if err := b.Delete(ctx, v.ID); err != nil {
		return err
	}
	_, err = b.Create(ctx, backend.Spec{Name: "kept", RequiredBytes: size})
	return err
}

func markImage(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, off := range []int64{0, size + 12345} {
		if _, err := f.WriteAt([]byte(mark), off); err != nil {
			return err
		}
	}
	return nil
}

func readImage(t *testing.T, dir, id string, off int64) string {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "images", imageFile(id)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, len(mark))
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// inMemory stores the test's files in memory: fsync has no effect if only the process is killed.
func inMemory(t *testing.T) {
	if fi, err := os.Stat(memory); err == nil && fi.IsDir() {
		t.Setenv("TMPDIR", memory)
	}
}

// TestKilledAtAnyStep stops the process before each of its steps on the disk: nothing after it
// happens, not even a cleanup. A new process must reach the right state.
func TestKilledAtAnyStep(t *testing.T) {
	inMemory(t)
	for n := 1; ; n++ {
		dir := filepath.Join(t.TempDir(), "v")
		left := n
		b := open(t, Options{Dir: dir, Hook: func(string) error {
			if left--; left <= 0 {
				return errKilled
			}
			return nil
		}})
		err := life(t.Context(), b)
		shut(t, b)
		check(t, dir)
		if err == nil {
			t.Logf("%d steps", n-1)
			break
		}
		if !errors.Is(err, errKilled) {
			t.Fatalf("step %d: %v", n, err)
		}
		b = open(t, Options{Dir: dir})
		if err := life(t.Context(), b); err != nil {
			t.Fatalf("after step %d: %v", n, err)
		}
		if len(b.vols.ids) != 1 {
			t.Fatalf("after step %d: %d volumes", n, len(b.vols.ids))
		}
		shut(t, b)
		check(t, dir)
	}
}

// TestRecoveryKilled stops Open while it cleans up.
func TestRecoveryKilled(t *testing.T) {
	inMemory(t)
	for first := 1; ; first++ {
		for second := 1; ; second++ {
			dir := filepath.Join(t.TempDir(), "v")
			killAt := func(n int) func(string) error {
				return func(string) error {
					if n--; n <= 0 {
						return errKilled
					}
					return nil
				}
			}
			b := open(t, Options{Dir: dir, Hook: killAt(first)})
			err := life(t.Context(), b)
			shut(t, b)
			if err == nil {
				return
			}
			b, err = Open(t.Context(), Options{Dir: dir, Node: "node-1", Hook: killAt(second)})
			if err == nil {
				shut(t, b)
			}
			check(t, dir)
			if err == nil {
				break
			}
		}
	}
}

// TestFaultAtAnyStep makes each step fail once in a process that continues.
func TestFaultAtAnyStep(t *testing.T) {
	inMemory(t)
	for _, fault := range []error{unix.EIO, unix.ENOSPC} {
		for n := 1; ; n++ {
			dir := filepath.Join(t.TempDir(), "v")
			left := n
			b := open(t, Options{Dir: dir, Hook: func(string) error {
				if left--; left == 0 {
					return fault
				}
				return nil
			}})
			err := life(t.Context(), b)
			if left > 0 {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			if !errors.Is(err, fault) {
				t.Fatalf("step %d: %v", n, err)
			}
			if err := life(t.Context(), b); err != nil {
				t.Fatalf("again after step %d: %v", n, err)
			}
			if len(b.vols.ids) != 1 || b.promised != size || b.attached != 0 {
				t.Fatalf("after step %d: %d volumes, %d promised, %d attached", n, len(b.vols.ids), b.promised, b.attached)
			}
			shut(t, b)
			check(t, dir)
		}
	}
}

// TestFailsClosed changes files without the driver's knowledge.
func TestFailsClosed(t *testing.T) {
	for name, harm := range map[string]func(img string) error{
		"missing": os.Remove,
		"short":   func(img string) error { return os.Truncate(img, size/2) },
		"symlink": func(img string) error {
			if err := os.Rename(img, img+".moved"); err != nil {
				return err
			}
			return os.Symlink(img+".moved", img)
		},
		"second name": func(img string) error { return os.Link(img, img+".link") },
		"directory": func(img string) error {
			if err := os.Remove(img); err != nil {
				return err
			}
			return os.Mkdir(img, 0o700)
		},
		"fifo": func(img string) error {
			if err := os.Remove(img); err != nil {
				return err
			}
			return unix.Mkfifo(img, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "v")
			b := open(t, Options{Dir: dir})
			v := backendtest.Must[backend.Volume](t)(b.Create(t.Context(), backend.Spec{Name: "a", RequiredBytes: size}))
			backendtest.Must[map[string]string](t)(b.Attach(t.Context(), v.ID, "node-1", false))
			if err := harm(filepath.Join(dir, "images", v.ID+".img")); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Device(t.Context(), v.ID, nil); !errors.Is(err, backend.ErrDamaged) {
				t.Fatalf("device: %v", err)
			}
			if c, err := b.Health(t.Context(), v.ID); err != nil || len(c) == 0 {
				t.Fatalf("health: %v %v", c, err)
			}
		})
	}
}
