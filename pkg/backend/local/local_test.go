package local

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

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
		opt.Overcommit = 1000 // the images hold hardly any data
	}
	b, err := Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, b) })
	return b
}

// shut closes a backend; closing it again does no harm.
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
		// Every copy has the first sector of the volume that life marked, and its last hole.
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

// mark is at the start of a marked image, and near its end.
const mark = "marked"

const memory = "/dev/shm"

var errKilled = errors.New("killed")

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
