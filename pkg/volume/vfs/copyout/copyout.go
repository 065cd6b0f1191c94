package copyout

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/walk"
)

var (
	// ErrExists means that the destination exists and is not a directory. Nothing is overwritten.
	ErrExists = errors.New("exists; existing files are not overwritten")
	// ErrNoDirectory means that several paths were to be copied to a name that is not a directory.
	ErrNoDirectory = errors.New("no such directory")
	// ErrIncomplete means that some entries were not copied. Options.Failed was called for each.
	ErrIncomplete = errors.New("not everything was copied")
)

// Options of Copy. The zero value works.
type Options struct {
	// Failed is called for each entry that was not copied completely.
	Failed func(path string, err error)
	// Progress is called with the number of copied bytes, and the number of bytes in the file
	// system.
	Progress func(done, total uint64)
}

// Copy copies files and trees of fs to a destination on this machine. If dest is a directory, it
// creates the copies in dest. For the root directory, it copies the contents. Otherwise, there must
// be one path, and dest becomes the name of the copy. If entries cannot be copied, Copy skips them
// and returns ErrIncomplete. Other errors end the copy.
func Copy(fs vfs.Reader, paths []string, dest string, o Options) error {
	sf := fs.StatFS()
	c := &copier{walker: walk.Walker{FS: fs}, fs: fs, root: os.Geteuid() == 0, opts: o, buf: make([]byte, walk.ReadBytes),
		total: (sf.Blocks - min(sf.BlocksFree, sf.Blocks)) * uint64(sf.BlockSize)}
	var sources []*walk.Entry
	for _, p := range paths {
		e, err := walk.Lookup(fs, p, false)
		if err != nil {
			return err
		}
		sources = append(sources, e)
	}
	parent, into, name, err := destination(dest, len(sources))
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	for _, e := range sources {
		if err := c.source(parent, e, into, name); err != nil {
			return err
		}
	}
	if err := unix.Syncfs(parent); err != nil {
		return fmt.Errorf("%s: sync: %w", dest, err)
	}
	if c.failed > 0 {
		return &incompleteError{c.failed}
	}
	return nil
}

type incompleteError struct{ entries int }

func (e *incompleteError) Error() string {
	return fmt.Sprintf("%d entries were not copied completely", e.entries)
}

func (e *incompleteError) Unwrap() error { return ErrIncomplete }

// copier copies files out of a volume. It creates all names relative to the descriptor of dest or
// of a directory that it created, and never follows links.
type copier struct {
	walker walk.Walker
	fs     vfs.Reader
	opts   Options
	root   bool // may change owners
	failed int  // entries that were not copied
	done   uint64
	total  uint64
	buf    []byte
}

// destination opens the directory to copy into. If into is false, the copy gets the given name in
// that directory.
func destination(dest string, sources int) (parent int, into bool, name string, err error) {
	parent, err = unix.Open(dest, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		return parent, true, "", nil
	}
	if errors.Is(err, unix.ENOTDIR) {
		return -1, false, "", fmt.Errorf("%s %w", dest, ErrExists)
	}
	if !errors.Is(err, unix.ENOENT) {
		return -1, false, "", &os.PathError{Op: "open", Path: dest, Err: err}
	}
	if sources > 1 {
		return -1, false, "", fmt.Errorf("%s: %w", dest, ErrNoDirectory)
	}
	dir, name := filepath.Split(strings.TrimRight(dest, "/"))
	if dir == "" {
		dir = "."
	}
	parent, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, false, "", &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return parent, false, name, nil
}

func (c *copier) source(parent int, e *walk.Entry, into bool, name string) error {
	if into {
		name = filepath.Base(e.Path)
		if e.Path == "/" {
			return c.walker.Children(e, func(child *walk.Entry) error { return c.entry(parent, child.Name, child) })
		}
	}
	if err := walk.CheckName(name); err != nil {
		return err
	}
	return c.entry(parent, name, e)
}

// entry copies one inode and everything below it. It returns an error only if continuing is
// useless.
func (c *copier) entry(parent int, name string, e *walk.Entry) error {
	var err error
	switch e.Kind() {
	case unix.S_IFDIR:
		err = c.directory(parent, name, e)
	case unix.S_IFREG:
		err = c.file(parent, name, e)
	case unix.S_IFLNK:
		err = c.symlink(parent, name, e)
	case unix.S_IFIFO, unix.S_IFSOCK:
		if err = unix.Mknodat(parent, name, e.Kind()|0o600, 0); err == nil {
			err = c.attributesAt(parent, name, e, true)
		}
	default:
		err = fmt.Errorf("%ss are not copied", walk.KindName(e.Kind()))
	}
	if isFull(err) {
		if e.Kind() == unix.S_IFDIR {
			return err // the entries below were reported already
		}
		return fmt.Errorf("%s: %w", walk.Printable(e.Path), err)
	}
	if errors.Is(err, unix.EEXIST) {
		err = errors.New("the name exists at the destination; existing files are not overwritten")
	}
	if err != nil {
		c.failed++
		if c.opts.Failed != nil {
			c.opts.Failed(e.Path, err)
		}
	}
	return nil
}

// isFull tells whether the destination is full, so that continuing is useless.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

func (c *copier) directory(parent int, name string, e *walk.Entry) error {
	if err := unix.Mkdirat(parent, name, 0o700); err != nil {
		return err
	}
	dir, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	err = c.walker.Children(e, func(child *walk.Entry) error { return c.entry(dir, child.Name, child) })
	if isFull(err) {
		return err
	}
	// Set them last, because creating children changes the time, and the mode may forbid it.
	return errors.Join(err, c.attributes(dir, e))
}

func (c *copier) symlink(parent int, name string, e *walk.Entry) error {
	target, err := c.fs.Readlink(e.Attr.Ino)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(target, parent, name); err != nil {
		return err
	}
	return c.attributesAt(parent, name, e, false)
}
