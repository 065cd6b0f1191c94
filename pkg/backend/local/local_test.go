package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
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
	if os.Getenv("TMPDIR") == memory {
		opt.Overcommit = 1000 // the images hold next to nothing
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
	for _, d := range []string{"images", "volumes", "snapshots"} {
		entries, err := os.ReadDir(filepath.Join(dir, d))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			switch {
			case d == "images" && strings.HasSuffix(e.Name(), ".img"):
				images++
			case d != "images" && strings.HasSuffix(e.Name(), ".json"):
				records++
			default:
				t.Fatalf("left over: %s/%s", d, e.Name())
			}
		}
	}
	all := slices.Concat(b.vols.ids, b.snaps.ids)
	if images != len(all) || records != len(all) || !slices.IsSorted(b.vols.ids) || !slices.IsSorted(b.snaps.ids) {
		t.Fatalf("%d images, %d records, %d volumes, %d snapshots", images, records, len(b.vols.ids), len(b.snaps.ids))
	}
	var promised, attached int64
	for _, id := range all {
		s, _ := b.shelfOf(id)
		r, err := b.onShelf(s, id)
		if err != nil {
			t.Fatal(err)
		}
		if s == &b.snaps && !slices.Contains(b.of[r.Source.Volume], id) {
			t.Fatalf("snapshot %s is not listed with its volume", id)
		}
		// Whatever was copied has the first sector of the volume that life marked, and its last hole.
		if got := readImage(t, dir, id, 0); r.Origin != "" && got != mark {
			t.Fatalf("%s is a copy and begins with %q", id, got)
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

// mark is at the beginning of a marked image, and near its end.
const mark = "marked"

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

// inMemory has the test's files in memory: no fsync has a meaning where nothing but the process is cut off.
func inMemory(t *testing.T) {
	if fi, err := os.Stat(memory); err == nil && fi.IsDir() {
		t.Setenv("TMPDIR", memory)
	}
}

const memory = "/dev/shm"

var errKilled = errors.New("killed")

// TestKilledAtAnyStep cuts the process off before each step it makes on the disk: nothing after it
// happens, not even a clean-up. A new process must converge.
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

// TestRecoveryKilled cuts off Open itself while it cleans up.
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

// TestFaultAtAnyStep lets each step fail once, in a process that lives on.
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

// TestCopyOfVolumeInUse: a served volume is copied at rest, or not at all.
func TestCopyOfVolumeInUse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "v")
	var rests, releases int
	var releaseErr, restErr error
	b := open(t, Options{Dir: dir, Quiesce: func(context.Context, string) (func() error, error) {
		rests++
		return func() error {
			releases++
			return releaseErr
		}, restErr
	}})
	must := backendtest.Must[backend.Volume](t)
	v := must(b.Create(t.Context(), backend.Spec{Name: "a", RequiredBytes: size}))
	backendtest.Must[map[string]string](t)(b.Attach(t.Context(), v.ID, "node-1", false))
	path := filepath.Join(dir, "images", imageFile(v.ID))
	if err := markImage(path); err != nil {
		t.Fatal(err)
	}
	snap := func(name string) error {
		_, err := b.CreateSnapshot(t.Context(), backend.SnapshotSpec{Name: name, Volume: v.ID})
		return err
	}
	if err := snap("idle"); err != nil || rests != 0 {
		t.Fatal(rests, err)
	}
	server, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if err := unix.Flock(int(server.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal("a copy that is done keeps the volume: ", err)
	}
	if err := snap("served"); err != nil || rests != 1 || releases != 1 {
		t.Fatal(rests, releases, err)
	}
	releaseErr = errors.New("it was thawed")
	if err := snap("broken"); !errors.Is(err, backend.ErrBusy) {
		t.Fatal(err)
	}
	restErr = backend.ErrNotAttached // no server, and still a lock
	if err := snap("strange"); !errors.Is(err, backend.ErrBusy) {
		t.Fatal(err)
	}
	list, _, err := b.ListSnapshots(t.Context(), v.ID, "", 0)
	if err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	shut(t, b)
	b = open(t, Options{Dir: dir})
	if err := snap("unreachable"); !errors.Is(err, backend.ErrBusy) {
		t.Fatal(err)
	}
	server.Close()
	if err := snap("again"); err != nil {
		t.Fatal(err)
	}
	shut(t, b)
	check(t, dir)
}

// TestCopyOutlivesItsCall: a call that ends does not end the copy; its repetition finds it, and nothing that it reads can be deleted.
func TestCopyOutlivesItsCall(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "v")
	reached, goOn := make(chan bool), make(chan bool)
	b := open(t, Options{Dir: dir, Hook: func(step string) error {
		if strings.HasPrefix(step, "clone ") {
			reached <- true
			<-goOn
		}
		return nil
	}})
	must := backendtest.Must[backend.Volume](t)
	v := must(b.Create(t.Context(), backend.Spec{Name: "a", RequiredBytes: size}))
	if err := markImage(filepath.Join(dir, "images", imageFile(v.ID))); err != nil {
		t.Fatal(err)
	}
	before := backendtest.Must[backend.Capacity](t)(b.Capacity(t.Context(), nil))
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := b.CreateSnapshot(ctx, backend.SnapshotSpec{Name: "s", Volume: v.ID})
		first <- err
	}()
	<-reached
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := b.Delete(t.Context(), v.ID); !errors.Is(err, backend.ErrBusy) {
		t.Fatal(err)
	}
	if list, _, err := b.ListSnapshots(t.Context(), "", "", 0); err != nil || len(list) != 0 {
		t.Fatal("a snapshot that is not cut is listed: ", list, err)
	}
	if c := backendtest.Must[backend.Capacity](t)(b.Capacity(t.Context(), nil)); before.AvailableBytes-c.AvailableBytes != size {
		t.Fatal("its space is not promised: ", before, c)
	}
	goOn <- true
	s, err := b.CreateSnapshot(t.Context(), backend.SnapshotSpec{Name: "s", Volume: v.ID})
	if err != nil || s.State != backend.SnapshotReady {
		t.Fatal(s, err)
	}
	if err := b.Delete(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	// The end of the backend ends a copy.
	go func() {
		_, err := b.Create(t.Context(), backend.Spec{Name: "copy", Source: &backend.Source{Snapshot: s.ID}})
		first <- err
	}()
	<-reached
	closed := make(chan error)
	go func() { closed <- b.Close() }()
	for b.running.Err() == nil {
		runtime.Gosched()
	}
	if f, err := os.OpenFile(filepath.Join(dir, "images", imageFile(s.ID)), os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	} else if _, err := f.WriteAt([]byte("data to be copied"), 4096); err != nil || f.Close() != nil {
		t.Fatal(err)
	}
	goOn <- true
	if err := errors.Join(<-closed); err != nil {
		t.Fatal(err)
	}
	if err := <-first; err == nil {
		t.Fatal("a copy that was broken off succeeded")
	}
	check(t, dir)
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
		r, err := decodeRecord(b, volPrefix, hashName("a"))
		if err == nil && hashName(r.Name) != hashName("a") {
			t.Fatal("accepted a foreign record")
		}
	})
}
