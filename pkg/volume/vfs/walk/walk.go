package walk

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// sortedEntries is the maximum number of entries that are sorted by name, counting the directories
// above. A larger directory is listed in the order of the volume.
const sortedEntries = 1 << 16

// batchEntries is the number of entries that are read at once.
const batchEntries = 512

// Entry is an inode and its absolute path in the volume.
type Entry struct {
	Path string
	Name string // last element; "" for the root
	Attr vfs.Attr
}

// Kind returns the type of the inode: the S_IFMT bits of its mode.
func (e *Entry) Kind() uint32 { return e.Attr.Mode & unix.S_IFMT }

// ErrName means that a name is invalid: the kernel would not have created it.
var ErrName = errors.New("invalid name")

// CheckName returns ErrName for an invalid name of a directory entry.
func CheckName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%w: %q: %w", ErrName, name, vfs.ErrCorrupt)
	}
	return nil
}

// Walker walks trees in bounded memory. It supports one walk at a time.
type Walker struct {
	FS   vfs.Reader
	held int       // entries in memory, of all directories being walked
	way  []vfs.Ino // the directories of the current path
}

// ErrInside means that a directory contains itself, which happens only in a manipulated volume.
var ErrInside = errors.New("the directory contains itself")

// Children calls fn for each Entry of a directory.
func (w *Walker) Children(dir *Entry, fn func(e *Entry) error) error {
	if slices.Contains(w.way, dir.Attr.Ino) {
		return fmt.Errorf("%s: %w: %w", Printable(dir.Path), ErrInside, vfs.ErrCorrupt)
	}
	w.way = append(w.way, dir.Attr.Ino)
	defer func() { w.way = w.way[:len(w.way)-1] }()
	var all []Entry
	var cookie uint64
	for sorted, end := true, false; !end; {
		from := len(all)
		err := w.FS.ReadDir(dir.Attr.Ino, cookie, true, func(d vfs.Dirent, a *vfs.Attr) bool {
			all = append(all, Entry{path.Join(dir.Path, d.Name), d.Name, *a})
			cookie = d.Cookie
			return len(all)-from < batchEntries
		})
		if err != nil {
			return fmt.Errorf("%s: %w", Printable(dir.Path), err)
		}
		end = len(all) == from
		if !end && sorted && w.held+len(all) < sortedEntries {
			continue
		}
		if sorted && end {
			slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
		}
		sorted = false
		if err := w.each(dir, all, fn); err != nil {
			return err
		}
		all = all[:0]
	}
	return nil
}

func (w *Walker) each(dir *Entry, all []Entry, fn func(e *Entry) error) error {
	w.held += len(all)
	defer func() { w.held -= len(all) }()
	for i := range all {
		if err := CheckName(all[i].Name); err != nil {
			return fmt.Errorf("%s: %w", Printable(dir.Path), err)
		}
		if err := fn(&all[i]); err != nil {
			return err
		}
	}
	return nil
}

// Walk calls fn for e and, if it is a directory, for everything below it, parents first.
func (w *Walker) Walk(e *Entry, fn func(e *Entry) error) error {
	if err := fn(e); err != nil {
		return err
	}
	if e.Kind() != unix.S_IFDIR {
		return nil
	}
	return w.Children(e, func(c *Entry) error { return w.Walk(c, fn) })
}
