package atomicfile_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/atomicfile"
)

// With these variables, a child process writes a file and kills itself at a step.
const (
	envPath = "ATOMICFILE_TEST_PATH"
	envKill = "ATOMICFILE_TEST_KILL" // the number of the step
	envKind = "ATOMICFILE_TEST_KIND"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(envPath); path != "" {
		kill, err := strconv.Atoi(os.Getenv(envKill))
		if err != nil {
			panic(err)
		}
		step := 0
		o := kinds[os.Getenv(envKind)](path)
		o.Step = func(string) error {
			if step++; step == kill {
				panic(syscall.Kill(os.Getpid(), syscall.SIGKILL)) // the signal comes first
			}
			return nil
		}
		if err := writeParts(path, o); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var old, young = bytes.Repeat([]byte("old"), 10_000), bytes.Repeat([]byte("new!"), 100_000)

// kinds are the ways in which this project writes files.
var kinds = map[string]func(path string) atomicfile.Options{
	"random name": func(string) atomicfile.Options { return atomicfile.Options{} },
	"fixed name":  func(path string) atomicfile.Options { return atomicfile.Options{Temp: path + ".tmp"} },
	"volatile":    func(path string) atomicfile.Options { return atomicfile.Options{Temp: path + ".tmp", Volatile: true} },
	"new":         func(string) atomicfile.Options { return atomicfile.Options{New: true} },
	"link":        func(path string) atomicfile.Options { return atomicfile.Options{New: true, FS: noRename{}} },
}

// noRename is a file system whose files can be linked but not renamed to a new name only.
type noRename struct{}

func (noRename) OpenFile(name string, flag int, perm os.FileMode) (*os.File, error) {
	return os.OpenFile(name, flag, perm)
}
func (noRename) Rename(from, to string) error { return errors.ErrUnsupported }
func (noRename) Link(from, to string) error   { return os.Link(from, to) }
func (noRename) Remove(name string) error     { return os.Remove(name) }

// writeParts writes in several calls, so that there are steps in the middle of the content.
func writeParts(path string, o atomicfile.Options) error {
	f, err := atomicfile.Create(path, o)
	if err != nil {
		return err
	}
	defer f.Discard()
	for part := range slices.Chunk(young, 150_000) {
		if _, err := f.Write(part); err != nil {
			return err
		}
	}
	return f.Commit()
}

// before creates what exists before a write: the old file, unless the write must create a new one.
func before(t *testing.T, dir string, o atomicfile.Options) (path string, had []byte) {
	t.Helper()
	path = filepath.Join(dir, "file")
	if o.New {
		return path, nil
	}
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, old
}

// content returns the content of a name, or nil if there is no file.
func content(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return b
}

// others returns the other names in a file's directory.
func others(t *testing.T, path string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(path) {
			names = append(names, e.Name())
		}
	}
	return names
}

// TestKilled kills the writer at each of its steps: the name refers to the old content or to the
// new one. A second writer succeeds, whatever the first one left.
func TestKilled(t *testing.T) {
	for kind, options := range kinds {
		t.Run(kind, func(t *testing.T) {
			seen := map[bool]int{}
			for kill := 1; ; kill++ {
				path, had := before(t, t.TempDir(), options("x"))
				cmd := exec.Command("/proc/self/exe")
				cmd.Env = append(os.Environ(), envPath+"="+path, envKind+"="+kind, fmt.Sprint(envKill, "=", kill))
				out, err := cmd.CombinedOutput()
				var exit *exec.ExitError
				killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
				if err != nil && !killed {
					t.Fatalf("step %d: %v: %s", kill, err, out)
				}
				got := content(t, path)
				if !bytes.Equal(got, had) && !bytes.Equal(got, young) {
					t.Fatalf("killed at step %d: %d bytes, neither the old content nor the new", kill, len(got))
				}
				seen[bytes.Equal(got, young)]++
				if left := others(t, path); len(left) > 1 {
					t.Errorf("killed at step %d: left %v", kill, left)
				}
				if o := options(path); !o.New || got == nil {
					if err := writeParts(path, o); err != nil || !bytes.Equal(content(t, path), young) {
						t.Errorf("after step %d: %v", kill, err)
					}
				}
				if !killed {
					break
				}
			}
			if seen[false] < 4 || seen[true] < 1 {
				t.Errorf("the old content was seen %d times, the new one %d", seen[false], seen[true])
			}
		})
	}
}

// TestFailures makes each step fail: the error is returned, the name refers to the old content or
// to the new one, and no temporary file remains.
func TestFailures(t *testing.T) {
	injected := errors.New("injected")
	for kind, options := range kinds {
		t.Run(kind, func(t *testing.T) {
			for fail := 1; ; fail++ {
				path, had := before(t, t.TempDir(), options("x"))
				o, step := options(path), 0
				var last string
				o.Step = func(s string) error {
					if step++; step == fail {
						last = s
						return fmt.Errorf("%s: %w", s, injected)
					}
					return nil
				}
				err := writeParts(path, o)
				if last == "" {
					if err != nil || !bytes.Equal(content(t, path), young) {
						t.Fatal(err)
					}
					return
				}
				if !errors.Is(err, injected) {
					t.Errorf("%s failed, and the error is %v", last, err)
				}
				want := had
				if last == "fsync dir" {
					want = young
				}
				if got := content(t, path); !bytes.Equal(got, want) {
					t.Errorf("%s failed: %d bytes", last, len(got))
				}
				if left := others(t, path); len(left) != 0 {
					t.Errorf("%s failed: left %v", last, left)
				}
			}
		})
	}
}

// TestOrder: the content is durable before it has a name, and the name before Commit returns.
func TestOrder(t *testing.T) {
	for kind, want := range map[string]string{
		"random name": "create write fsync rename fsync", "new": "create write fsync rename fsync", "volatile": "create write rename",
	} {
		path := filepath.Join(t.TempDir(), "file")
		o := kinds[kind](path)
		var steps []string
		o.Step = func(s string) error {
			first, _, _ := strings.Cut(s, " ")
			steps = append(steps, first)
			return nil
		}
		if err := atomicfile.Write(path, young, o); err != nil || strings.Join(steps, " ") != want {
			t.Errorf("%s: %v, %v", kind, steps, err)
		}
	}
}

// TestNew never replaces a file, with both methods.
func TestNew(t *testing.T) {
	for _, kind := range []string{"new", "link"} {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, old, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := atomicfile.Write(path, young, kinds[kind](path)); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: %v", kind, err)
		}
		if !bytes.Equal(content(t, path), old) || len(others(t, path)) != 0 {
			t.Errorf("%s: the directory has changed", kind)
		}
	}
}

// TestMode: a file is private unless the options say otherwise, whatever mode the old file had.
func TestMode(t *testing.T) {
	defer unix.Umask(unix.Umask(0o022))
	path := filepath.Join(t.TempDir(), "file")
	for _, c := range []struct{ give, want os.FileMode }{{0, 0o600}, {0o666, 0o644}, {0o400, 0o400}, {0, 0o600}} {
		if err := atomicfile.Write(path, young, atomicfile.Options{Mode: c.give}); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(path); err != nil || fi.Mode() != c.want {
			t.Errorf("mode %v: %v, %v", c.give, fi.Mode(), err)
		}
	}
}

// TestNotRegular: only a regular file is replaced. A link is replaced itself, not its target.
func TestNotRegular(t *testing.T) {
	dir := t.TempDir()
	pipe, link, target := filepath.Join(dir, "pipe"), filepath.Join(dir, "link"), filepath.Join(dir, "target")
	if err := errors.Join(unix.Mkfifo(pipe, 0o600), os.WriteFile(target, old, 0o600), os.Symlink(target, link)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{pipe, dir} {
		if err := atomicfile.Write(name, young, atomicfile.Options{}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := atomicfile.Write(link, young, atomicfile.Options{}); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Lstat(link); err != nil || !fi.Mode().IsRegular() || !bytes.Equal(content(t, target), old) {
		t.Error("the link was followed", err)
	}
}

// TestManyWriters: a reader sees the complete content of one of many concurrent writers.
func TestManyWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	text := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, 50_000) }
	if err := atomicfile.Write(path, text(0), atomicfile.Options{Volatile: true}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 20 {
				if err := atomicfile.Write(path, text(i), atomicfile.Options{Volatile: true}); err != nil {
					t.Error(err)
				}
				if b := content(t, path); len(b) != 50_000 || !bytes.Equal(b, bytes.Repeat(b[:1], len(b))) {
					t.Errorf("%d bytes of several writers", len(b))
				}
			}
		})
	}
	wg.Wait()
	if left := others(t, path); len(left) != 0 {
		t.Error(left)
	}
}

// TestLongestName: a file may have the longest name that the file system allows.
func TestLongestName(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("n", 255))
	for name, o := range map[string]atomicfile.Options{"new": {New: true}, "replaced": {}} {
		if err := errors.Join(os.RemoveAll(path), atomicfile.Write(path, []byte(name), o)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if b := content(t, path); string(b) != name {
			t.Errorf("%s: %q", name, b)
		}
	}
}
