package main

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// maxLinks bounds symbolic links in one path, as the kernel does (MAXSYMLINKS).
const maxLinks = 40

// sortedEntries is the largest directory that is listed by name (with those it
// lies in); a larger one comes in the order of the volume.
const sortedEntries = 1 << 16

// batchEntries are read at once.
const batchEntries = 512

// entry is one inode and a path to it, absolute within the volume.
type entry struct {
	path string
	name string // last element; "" for the root
	attr vfs.Attr
}

func (e *entry) kind() uint32 { return e.attr.Mode & unix.S_IFMT }

// lookup finds a path within the volume. Symbolic links on the way are
// followed, inside the volume; the last only if follow is set.
func lookup(fs vfs.FS, p string, follow bool) (*entry, error) {
	at, err := fs.GetAttr(vfs.RootIno)
	if err != nil {
		return nil, err
	}
	todo := strings.Split(p, "/")
	links := 0
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		next := at
		switch name {
		case "", ".":
			continue
		case "..":
			var up vfs.Ino
			if up, err = fs.Parent(at.Ino); err == nil {
				next, err = fs.GetAttr(up)
			}
		default:
			if at.Mode&unix.S_IFMT != unix.S_IFDIR {
				err = vfs.ErrNotDir
				break
			}
			next, err = fs.Lookup(at.Ino, name)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", printable(p), err)
		}
		if next.Mode&unix.S_IFMT == unix.S_IFLNK && (follow || len(todo) > 0) {
			if links++; links > maxLinks {
				return nil, fmt.Errorf("%s: too many symbolic links", printable(p))
			}
			target, err := fs.Readlink(next.Ino)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", printable(p), err)
			}
			if strings.HasPrefix(target, "/") {
				if at, err = fs.GetAttr(vfs.RootIno); err != nil {
					return nil, err
				}
			}
			todo = append(strings.Split(target, "/"), todo...)
			continue
		}
		at = next
	}
	clean := path.Clean("/" + p)
	e := &entry{path: clean, name: path.Base(clean), attr: at}
	if clean == "/" {
		e.name = ""
	}
	return e, nil
}

// errName refuses names that no kernel would have made.
var errName = errors.New("a name that can not be")

func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%w: %q: %w", errName, name, vfs.ErrCorrupt)
	}
	return nil
}

// walker walks trees in bounded memory.
type walker struct {
	fs   vfs.FS
	held int       // entries in memory, of all directories being walked
	way  []vfs.Ino // these directories, from the first one down
}

// errInside is a directory that lies below itself, which no volume makes.
var errInside = errors.New("the directory lies inside itself")

// children calls fn for each entry of a directory.
func (w *walker) children(dir *entry, fn func(e *entry) error) error {
	if slices.Contains(w.way, dir.attr.Ino) {
		return fmt.Errorf("%s: %w: %w", printable(dir.path), errInside, vfs.ErrCorrupt)
	}
	w.way = append(w.way, dir.attr.Ino)
	defer func() { w.way = w.way[:len(w.way)-1] }()
	var all []entry
	var cookie uint64
	for sorted, end := true, false; !end; {
		from := len(all)
		err := w.fs.ReadDir(dir.attr.Ino, cookie, true, func(d vfs.Dirent, a *vfs.Attr) bool {
			all = append(all, entry{path.Join(dir.path, d.Name), d.Name, *a})
			cookie = d.Cookie
			return len(all)-from < batchEntries
		})
		if err != nil {
			return fmt.Errorf("%s: %w", printable(dir.path), err)
		}
		end = len(all) == from
		if !end && sorted && w.held+len(all) < sortedEntries {
			continue
		}
		if sorted && end {
			slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.name, b.name) })
		}
		sorted = false
		if err := w.each(dir, all, fn); err != nil {
			return err
		}
		all = all[:0]
	}
	return nil
}

func (w *walker) each(dir *entry, all []entry, fn func(e *entry) error) error {
	w.held += len(all)
	defer func() { w.held -= len(all) }()
	for i := range all {
		if err := checkName(all[i].name); err != nil {
			return fmt.Errorf("%s: %w", printable(dir.path), err)
		}
		if err := fn(&all[i]); err != nil {
			return err
		}
	}
	return nil
}

// walk calls fn for e and, if it is a directory, for everything beneath,
// parents first.
func (w *walker) walk(e *entry, fn func(e *entry) error) error {
	if err := fn(e); err != nil {
		return err
	}
	if e.kind() != unix.S_IFDIR {
		return nil
	}
	return w.children(e, func(c *entry) error { return w.walk(c, fn) })
}
