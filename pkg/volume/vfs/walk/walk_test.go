package walk

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// loopFS has two directories that contain each other.
type loopFS struct{ vfs.FS }

func (loopFS) ReadDir(dir vfs.Ino, cookie uint64, _ bool, fn func(vfs.Dirent, *vfs.Attr) bool) error {
	if cookie == 0 {
		next := 3 - dir
		fn(vfs.Dirent{Name: "x", Ino: next, Cookie: 1}, &vfs.Attr{Ino: next, Mode: unix.S_IFDIR})
	}
	return nil
}

// TestWalkLoop walks directories that contain themselves, as an attacker with the key could create
// them.
func TestWalkLoop(t *testing.T) {
	w := &Walker{FS: loopFS{}}
	seen := 0
	err := w.Walk(&Entry{Path: "/", Attr: vfs.Attr{Ino: 1, Mode: unix.S_IFDIR}}, func(*Entry) error { seen++; return nil })
	if !errors.Is(err, ErrInside) || !errors.Is(err, vfs.ErrCorrupt) || seen != 3 || len(w.way) != 0 {
		t.Errorf("%d seen, %v", seen, err)
	}
}

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{"/a b/ü": "/a b/ü", "a\nb": `"a\nb"`, "\x1b[2J": `"\x1b[2J"`, "\xff": `"\xff"`, "a\u202eb": `"a\u202eb"`} {
		if got := Printable(s); got != want {
			t.Errorf("%q: %s", s, got)
		}
	}
}

// listFS has one directory of n names.
type listFS struct {
	vfs.FS
	n    int
	most int // entries given out in one call
}

func (f *listFS) ReadDir(_ vfs.Ino, cookie uint64, _ bool, fn func(vfs.Dirent, *vfs.Attr) bool) error {
	given := 0
	for i := int(cookie); i < f.n; i++ {
		given++
		// Names are in descending order, cookies in ascending order.
		if !fn(vfs.Dirent{Name: fmt.Sprintf("%08d", f.n-i), Cookie: uint64(i + 1)}, &vfs.Attr{Mode: unix.S_IFREG}) {
			break
		}
	}
	f.most = max(f.most, given)
	return nil
}

// TestChildren lists small directories by name, and large ones in pieces.
func TestChildren(t *testing.T) {
	for _, n := range []int{0, 1, batchEntries, batchEntries + 1, sortedEntries - 1, 3*sortedEntries + 7} {
		f := &listFS{n: n}
		w := &Walker{FS: f}
		var names []string
		held := 0
		if err := w.Children(&Entry{Path: "/"}, func(e *Entry) error {
			names = append(names, e.Name)
			held = max(held, w.held)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if sorted := slices.IsSorted(names); sorted != (n < sortedEntries) {
			t.Errorf("%d names: sorted is %v", n, sorted)
		}
		slices.Sort(names)
		if len(slices.Compact(names)) != n || held > sortedEntries+batchEntries || w.held != 0 || f.most > batchEntries {
			t.Errorf("%d names: %d found, %d held, %d at once, %d left", n, len(names), held, f.most, w.held)
		}
	}
}

func TestNamesThatCanNotBe(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "a\x00"} {
		if err := CheckName(name); !errors.Is(err, vfs.ErrCorrupt) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
