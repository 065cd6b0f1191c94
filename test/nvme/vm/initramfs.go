package vm

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// archive writes the cpio format "newc"
// (linux/Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	w   *bufio.Writer
	ino int
	off int64
	err error
}

// entry writes one entry of size bytes from r.
func (a *archive) entry(name string, mode uint32, major, minor uint32, size int64, r io.Reader) {
	a.ino++
	a.printf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", a.ino, mode, 0, 0, 1, 0, size, 0, 0, major, minor, len(name)+1, 0)
	a.printf("%s\x00", name)
	a.pad()
	if a.err == nil && r != nil {
		var n int64
		n, a.err = io.Copy(a.w, r)
		a.off += n
		if a.err == nil && n != size {
			a.err = fmt.Errorf("%s changed while it was read", name)
		}
	}
	a.pad()
}

func (a *archive) printf(format string, args ...any) {
	if a.err == nil {
		var n int
		n, a.err = fmt.Fprintf(a.w, format, args...)
		a.off += int64(n)
	}
}

func (a *archive) pad() {
	for a.off%4 != 0 && a.err == nil {
		a.printf("\x00")
	}
}

// Modes of entries.
const (
	modeDir  = 0o040755
	modeFile = 0o100755
	modeChar = 0o020600
)

func (a *archive) dir(name string) { a.entry(name, modeDir, 0, 0, 0, nil) }

func (a *archive) file(name, from string) {
	f, err := os.Open(from)
	if err != nil {
		a.err = err
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		a.err = err
		return
	}
	a.entry(name, modeFile, 0, 0, st.Size(), f)
}

// ModuleList is the file in the image that lists its kernel modules, one path per line, in loading
// order.
const ModuleList = "/modules.list"

// writeInitramfs writes an image with init as its first process, other files (path inside: path on
// the host), and kernel modules.
func writeInitramfs(path, init string, files map[string]string, modules []string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	a := &archive{w: bufio.NewWriterSize(f, 1<<20)}
	for _, d := range []string{"dev", "proc", "sys", "run", "tmp", "bin", "modules"} {
		a.dir(d)
	}
	a.entry("dev/console", modeChar, 5, 1, 0, nil) // for messages of init before /dev exists
	a.file("init", init)
	for name, from := range files {
		a.file(strings.TrimPrefix(name, "/"), from)
	}
	var list strings.Builder
	for _, m := range modules {
		name := "/modules/" + filepath.Base(m)
		a.file(name[1:], m)
		list.WriteString(name + "\n")
	}
	a.entry(ModuleList[1:], modeFile, 0, 0, int64(list.Len()), strings.NewReader(list.String()))
	a.entry("TRAILER!!!", 0, 0, 0, 0, nil)
	if a.err == nil {
		a.err = a.w.Flush()
	}
	return a.err
}

// findModules returns the files of modules and of their dependencies, in loading order. A module
// without a file is built into the kernel.
func findModules(dir string, names ...string) ([]string, error) {
	have := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			have[moduleName(name)] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var list []string
	var add func(name string) error
	add = func(name string) error {
		path, ok := have[moduleName(name)]
		if !ok || slices.Contains(list, path) {
			return nil
		}
		needs, err := moduleNeeds(path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return err
			}
		}
		list = append(list, path)
		return nil
	}
	for _, n := range names {
		if err := add(n); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// moduleName treats dashes and underscores as equal.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// moduleNeeds reads the dependencies of a module.
func moduleNeeds(path string) (needs []string, err error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("no .modinfo")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	for line := range strings.SplitSeq(string(info), "\x00") {
		if needs, ok := strings.CutPrefix(line, "depends="); ok && needs != "" {
			return strings.Split(needs, ","), nil
		}
	}
	return nil, nil
}
