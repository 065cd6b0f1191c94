package main

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "4096": 4096, "512B": 512, "1K": 1 << 10, "64KiB": 64 << 10, "10Gi": 10 << 30,
		"2 TiB": 2 << 40, "7E": 7 << 60, "9223372036854775807": 1<<63 - 1} {
		if got, err := parseSize(s); err != nil || got != want {
			t.Errorf("%q: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "K", "-1", "1MB", "1kb", "1.5GiB", "8E", "9223372036854775808", "1KiBKiB", "0x10", "1 000", "10iB"} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("%q: %d", s, got)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1 << 20: "1 MiB", 3 << 19: "1.5 MiB", 10 << 30: "10 GiB"} {
		if got := formatSize(n); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
}

func TestSplitOptions(t *testing.T) {
	got := splitOptions(`ro,,context="system_u:object_r:t:s0:c1,c2",noexec`)
	if want := []string{"ro", `context="system_u:object_r:t:s0:c1,c2"`, "noexec"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if err := checkOptions(got); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"context", "ro=1", "user", "fd=3", "allow_root", " ", "rootmode=40000"} {
		if checkOptions([]string{bad}) == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestModeString(t *testing.T) {
	for mode, want := range map[uint32]string{
		unix.S_IFREG | 0o644: "-rw-r--r--", unix.S_IFDIR | 0o1777: "drwxrwxrwt", unix.S_IFREG | 0o4755: "-rwsr-xr-x",
		unix.S_IFREG | 0o2644: "-rw-r-Sr--", unix.S_IFLNK | 0o777: "lrwxrwxrwx", 0o1000: "?--------T",
	} {
		if got := modeString(mode); got != want {
			t.Errorf("%o: %s, want %s", mode, got, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{"/a b/ü": "/a b/ü", "a\nb": `"a\nb"`, "\x1b[2J": `"\x1b[2J"`, "\xff": `"\xff"`, "a\u202eb": `"a\u202eb"`} {
		if got := printable(s); got != want {
			t.Errorf("%q: %s", s, got)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for want, err := range map[int]error{
		exitOK: nil, exitFailed: errors.New("x"), exitUsage: fmt.Errorf("x: %w", errKeyFlags),
		exitUnable: fmt.Errorf("x: %w", &codeError{err: vfs.ErrIO, code: exitUnable}),
	} {
		if got := exitCode(err); got != want {
			t.Errorf("%v: %d", err, got)
		}
	}
	if h := hint(fmt.Errorf("x: %w", crypto.ErrWrongKey)); h == "" {
		t.Error("no hint for a wrong key")
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
		// Names fall while cookies grow.
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
		w := &walker{fs: f}
		var names []string
		held := 0
		if err := w.children(&entry{path: "/"}, func(e *entry) error {
			names = append(names, e.name)
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
		if err := checkName(name); !errors.Is(err, vfs.ErrCorrupt) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
