package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/backendtest"
)

const size = 512 * backendtest.MiB

func open(t *testing.T, opt Options) *Backend {
	t.Helper()
	if opt.Node == "" {
		opt.Node = "node-1"
	}
	b, err := Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, b) })
	return b
}

// shut closes a backend; once more does no harm.
func shut(t *testing.T, b *Backend) {
	t.Helper()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

func TestConformance(t *testing.T) {
	backendtest.Run(t, backendtest.Setup{SizeBytes: size, New: func(t *testing.T) backend.Backend {
		return open(t, Options{Dir: filepath.Join(t.TempDir(), "v")})
	}})
}

// check verifies that directory and index agree and that nothing leaked.
func check(t *testing.T, dir string) {
	t.Helper()
	b := open(t, Options{Dir: dir})
	defer shut(t, b)
	images, records := 0, 0
	for _, d := range []string{"images", "volumes"} {
		entries, err := os.ReadDir(filepath.Join(dir, d))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			switch {
			case d == "images" && strings.HasSuffix(e.Name(), ".img"):
				images++
			case d == "volumes" && strings.HasSuffix(e.Name(), ".json"):
				records++
			default:
				t.Fatalf("left over: %s/%s", d, e.Name())
			}
		}
	}
	if images != len(b.ids) || records != len(b.ids) || !slices.IsSorted(b.ids) {
		t.Fatalf("%d images, %d records, %d volumes", images, records, len(b.ids))
	}
	var promised, attached int64
	for _, id := range b.ids {
		r, err := b.byID(id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.image(r); err != nil {
			t.Fatal(err)
		}
		promised += r.SizeBytes
		if r.Attachment != nil {
			attached++
		}
	}
	if promised != b.promised || attached != b.attached {
		t.Fatalf("promised %d, counted %d; attached %d, counted %d", b.promised, promised, b.attached, attached)
	}
}

// life takes a volume through all states. It may be repeated from the start after any failure.
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
	if d, err := b.Device(ctx, v.ID, nil); err != nil || d.SizeBytes != 2*size {
		return fmt.Errorf("device has %d bytes: %w", d.SizeBytes, err)
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

var errKilled = errors.New("killed")

// TestKilledAtAnyStep cuts the process off before each step it makes on the disk: nothing after it
// happens, not even a clean-up. A new process must converge.
func TestKilledAtAnyStep(t *testing.T) {
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
		if len(b.ids) != 1 {
			t.Fatalf("after step %d: %d volumes", n, len(b.ids))
		}
		shut(t, b)
		check(t, dir)
	}
}

// TestRecoveryKilled cuts off Open itself while it cleans up.
func TestRecoveryKilled(t *testing.T) {
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

// TestFaultAtAnyStep lets each step fail once, in a process that lives on.
func TestFaultAtAnyStep(t *testing.T) {
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
			if len(b.ids) != 1 || b.promised != size || b.attached != 0 {
				t.Fatalf("after step %d: %d volumes, %d promised, %d attached", n, len(b.ids), b.promised, b.attached)
			}
			shut(t, b)
			check(t, dir)
		}
	}
}

func TestOneOwner(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "v")
	b := open(t, Options{Dir: dir})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, Options{Dir: dir, Node: "n"}); !errors.Is(err, context.Canceled) {
		t.Fatalf("second owner: %v", err)
	}
	v := backendtest.Must[backend.Volume](t)(b.Create(t.Context(), backend.Spec{Name: "a", RequiredBytes: size}))
	node := open(t, Options{Dir: dir, NodeOnly: true})
	if _, err := node.Device(t.Context(), v.ID, nil); !errors.Is(err, backend.ErrNotAttached) {
		t.Fatal(err)
	}
	backendtest.Must[map[string]string](t)(b.Attach(t.Context(), v.ID, "node-1", false))
	backendtest.Must[backend.Device](t)(node.Device(t.Context(), v.ID, nil))
}

func TestMaxVolumes(t *testing.T) {
	b := open(t, Options{Dir: filepath.Join(t.TempDir(), "v"), MaxVolumes: 1})
	v1 := backendtest.Must[backend.Volume](t)(b.Create(t.Context(), backend.Spec{Name: "a", RequiredBytes: size}))
	v2 := backendtest.Must[backend.Volume](t)(b.Create(t.Context(), backend.Spec{Name: "b", RequiredBytes: size}))
	backendtest.Must[map[string]string](t)(b.Attach(t.Context(), v1.ID, "node-1", false))
	if _, err := b.Attach(t.Context(), v2.ID, "node-1", false); !errors.Is(err, backend.ErrTooManyAttached) {
		t.Fatal(err)
	}
	if err := b.Detach(t.Context(), v1.ID, ""); err != nil {
		t.Fatal(err)
	}
	backendtest.Must[map[string]string](t)(b.Attach(t.Context(), v2.ID, "node-1", false))
}

// TestFailsClosed changes things behind the driver's back.
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

func TestDamagedRecords(t *testing.T) {
	good := fmt.Sprintf(`{"version":1,"id":%q,"name":"a","state":"ready","sizeBytes":%d}`, newID("a"), size)
	hash := hashName("a")
	if _, err := decodeRecord([]byte(good), hash); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "{", "[]", strings.Replace(good, `"version":1`, `"version":2`, 1),
		strings.Replace(good, `"name":"a"`, `"name":"b"`, 1), strings.Replace(good, "ready", "raedy", 1),
		strings.Replace(good, fmt.Sprint(size), "-1", 1), strings.Replace(good, "lv-", "../", 1)} {
		if _, err := decodeRecord([]byte(bad), hash); !errors.Is(err, backend.ErrDamaged) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestDamagedRecordAmongOthers: one bad record does not keep the others away, and is never overwritten.
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
		r, err := decodeRecord(b, hashName("a"))
		if err == nil && hashName(r.Name) != hashName("a") {
			t.Fatal("accepted a foreign record")
		}
	})
}
