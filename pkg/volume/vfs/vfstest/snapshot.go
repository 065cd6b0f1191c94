package vfstest

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// SnapshotOptions selects what Snapshot describes in addition to types, modes, owners, links,
// sizes, content and extended attributes.
type SnapshotOptions struct {
	Times bool
	Inos  bool
}

// Snapshot describes everything that can be reached from the root, with one line per name, sorted
// by path. If the lines of two file systems are equal, their contents are equal. Names of the same
// inode are marked. Allocated blocks are not described.
func Snapshot(fs vfs.FS, o SnapshotOptions) ([]string, error) {
	s := snapshot{fs: fs, o: o, first: make(map[vfs.Ino]string)}
	root, err := fs.GetAttr(vfs.RootIno)
	if err != nil {
		return nil, err
	}
	if err := s.walk("/", root); err != nil {
		return nil, err
	}
	return s.lines, nil
}

type snapshot struct {
	fs    vfs.FS
	o     SnapshotOptions
	first map[vfs.Ino]string // the first path of each inode that is not a directory
	lines []string
}

func (s *snapshot) walk(path string, a vfs.Attr) error {
	if err := s.describe(path, a); err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	if a.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		return nil
	}
	entries, err := readAll(s.fs, a.Ino)
	if err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	slices.SortFunc(entries, func(a, b vfs.Dirent) int { return strings.Compare(a.Name, b.Name) })
	for _, e := range entries {
		child, err := s.fs.Lookup(a.Ino, e.Name)
		if err != nil {
			return fmt.Errorf("%q/%q: %w", path, e.Name, err)
		}
		if child.Ino != e.Ino || child.Mode&syscall.S_IFMT != e.Type {
			return fmt.Errorf("%q/%q: entry says inode %d type %o, lookup %d %o", path, e.Name, e.Ino, e.Type, child.Ino, child.Mode)
		}
		if err := s.walk(strings.TrimSuffix(path, "/")+"/"+e.Name, child); err != nil {
			return err
		}
	}
	return nil
}

func (s *snapshot) describe(path string, a vfs.Attr) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%q mode=%o nlink=%d uid=%d gid=%d", path, a.Mode, a.Nlink, a.UID, a.GID)
	if s.o.Inos {
		fmt.Fprintf(&b, " ino=%d", a.Ino)
	}
	if s.o.Times {
		fmt.Fprintf(&b, " atime=%v mtime=%v ctime=%v btime=%v", a.Atime, a.Mtime, a.Ctime, a.Btime)
	}
	switch a.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		sum, err := checksum(s.fs, a)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, " size=%d sha256=%x", a.Size, sum)
	case syscall.S_IFLNK:
		target, err := s.fs.Readlink(a.Ino)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, " size=%d target=%q", a.Size, target)
	case syscall.S_IFCHR, syscall.S_IFBLK:
		fmt.Fprintf(&b, " rdev=%#x", a.Rdev)
	}
	names, err := s.fs.ListXattr(a.Ino)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(slices.Values(names)) {
		value, err := s.fs.GetXattr(a.Ino, name)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, " %q=%x", name, value)
	}
	if f, ok := s.fs.(vfs.Flagger); ok {
		flags, err := f.Flags(a.Ino)
		if err != nil {
			return err
		}
		if flags != 0 {
			fmt.Fprintf(&b, " flags=%#x", flags)
		}
	}
	if first, ok := s.first[a.Ino]; ok {
		fmt.Fprintf(&b, " same as %q", first)
	}
	s.first[a.Ino] = path
	s.lines = append(s.lines, b.String())
	return nil
}

// checksum covers the size, and the offsets and contents of the 64 KiB pieces that are not all
// zero. It skips holes, so that huge sparse files can be compared.
func checksum(fs vfs.FS, a vfs.Attr) ([]byte, error) {
	h := sha256.New()
	buf := make([]byte, 64<<10)
	for off := uint64(0); off < a.Size; {
		data, err := fs.SeekData(a.Ino, off)
		if isErr(err, vfs.ErrNoData) {
			break
		}
		if err != nil {
			return nil, err
		}
		off = data / uint64(len(buf)) * uint64(len(buf))
		n, err := fs.Read(a.Ino, off, buf)
		if err != nil {
			return nil, err
		}
		if want := min(uint64(len(buf)), a.Size-off); uint64(n) != want {
			return nil, fmt.Errorf("read %d of %d bytes at %d", n, want, off)
		}
		if slices.ContainsFunc(buf[:n], func(b byte) bool { return b != 0 }) {
			h.Write(fmt.Appendf(nil, "%d:%d:", off, n))
			h.Write(buf[:n])
		}
		off += uint64(n)
	}
	return h.Sum(nil), nil
}

// readAll lists a directory with a few entries per call.
func readAll(fs vfs.FS, dir vfs.Ino) ([]vfs.Dirent, error) {
	var all []vfs.Dirent
	cookie := uint64(0)
	for {
		n := 0
		err := fs.ReadDir(dir, cookie, false, func(d vfs.Dirent, _ *vfs.Attr) bool {
			if n == 50 {
				return false
			}
			n++
			all = append(all, d)
			cookie = d.Cookie
			return true
		})
		if err != nil || n == 0 {
			return all, err
		}
	}
}

// diff returns the first lines that differ.
func diff(got, want []string) string {
	in := func(a, b []string) []string {
		return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
	}
	more, missing := in(got, want), in(want, got)
	if len(more) == 0 && len(missing) == 0 {
		return ""
	}
	return fmt.Sprintf("got\n  %s\nwant\n  %s", strings.Join(more[:min(len(more), 5)], "\n  "),
		strings.Join(missing[:min(len(missing), 5)], "\n  "))
}
