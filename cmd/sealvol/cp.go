package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func cpCommand() *cobra.Command {
	var key keyFlags
	c := &cobra.Command{
		Use:   "cp --key-file FILE DEVICE PATH... DEST",
		Short: "Copy files and trees out of a volume without mounting it",
		Long: `Copy each PATH within the volume, with everything beneath, to DEST outside, without
mounting the volume. If DEST is a directory, copies are made in it (of / its
contents); otherwise there is one PATH, and DEST becomes the name of the copy.
Nothing that exists is overwritten.

Copies keep contents with their holes, modes, modification times, symbolic links and
extended attributes as far as DEST can; for root also owners. Not kept: set-user-ID
and set-group-ID of files, and file capabilities, since whoever wrote to the volume
could become root by them; hard links, which become files of their own. Device nodes
are not copied.

Files are only made beneath DEST: no link and no name in the volume leads out of it.
What can not be copied, damaged files say, is named, the rest is copied, and the
command fails at the end. A file is never left half copied under its name.`,
		Example: `  sealvol cp --key-file vol.key vol.img /data/db /restore
  sealvol cp --key-file vol.key vol.img / /restore/everything`,
		Args: args(3, -1, "a DEVICE, at least one PATH and a DEST"),
		RunE: func(c *cobra.Command, a []string) error {
			v, end, err := openFS(a[0], &key)
			if err != nil {
				return err
			}
			defer end()
			return copyOut(v, a[1:len(a)-1], a[len(a)-1], c.ErrOrStderr())
		},
	}
	key.register(c.Flags())
	return c
}

// copier copies out of a volume. All names are made relative to descriptors of
// directories that it made itself, or DEST's, and links are never followed.
type copier struct {
	walker
	root   bool // may change owners
	warn   io.Writer
	failed int // entries that were not copied
	bar    *progress
	done   uint64
	total  uint64
	buf    []byte
}

func copyOut(fs vfs.FS, paths []string, dest string, warn io.Writer) error {
	sf := fs.StatFS()
	c := &copier{walker: walker{fs: fs}, root: os.Geteuid() == 0, warn: warn, buf: make([]byte, readBytes),
		total: (sf.Blocks - min(sf.BlocksFree, sf.Blocks)) * uint64(sf.BlockSize)}
	var sources []*entry
	for _, p := range paths {
		e, err := lookup(fs, p, false)
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
	c.bar = newProgress("copy")
	defer c.bar.end()
	for _, e := range sources {
		if err := c.source(parent, e, into, name); err != nil {
			return err
		}
	}
	if err := unix.Syncfs(parent); err != nil {
		return fmt.Errorf("%s: sync: %w", dest, err)
	}
	if c.failed > 0 {
		return fmt.Errorf("%d entries were not copied, or not whole", c.failed)
	}
	return nil
}

// destination opens the directory to copy into. If into is not set, the copy is
// to be called name there.
func destination(dest string, sources int) (parent int, into bool, name string, err error) {
	parent, err = unix.Open(dest, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		return parent, true, "", nil
	}
	if errors.Is(err, unix.ENOTDIR) {
		return -1, false, "", withHint(fmt.Errorf("%s exists, and nothing is overwritten", dest), "give a directory, or a new name")
	}
	if !errors.Is(err, unix.ENOENT) {
		return -1, false, "", &os.PathError{Op: "open", Path: dest, Err: err}
	}
	if sources > 1 {
		return -1, false, "", withHint(fmt.Errorf("%s: no such directory", dest), "more than one PATH can be copied into a directory only: make it first")
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

func (c *copier) source(parent int, e *entry, into bool, name string) error {
	if into {
		name = filepath.Base(e.path)
		if e.path == "/" {
			return c.children(e, func(child *entry) error { return c.entry(parent, child.name, child) })
		}
	}
	if err := checkName(name); err != nil {
		return err
	}
	return c.entry(parent, name, e)
}

// entry copies one inode, and what is beneath. It returns an error only where
// going on is of no use.
func (c *copier) entry(parent int, name string, e *entry) error {
	var err error
	switch e.kind() {
	case unix.S_IFDIR:
		err = c.directory(parent, name, e)
	case unix.S_IFREG:
		err = c.file(parent, name, e)
	case unix.S_IFLNK:
		err = c.symlink(parent, name, e)
	case unix.S_IFIFO, unix.S_IFSOCK:
		if err = unix.Mknodat(parent, name, e.kind()|0o600, 0); err == nil {
			err = c.attributesAt(parent, name, e, true)
		}
	default:
		err = fmt.Errorf("%ss are not copied", typeName(e.kind()))
	}
	if isFull(err) {
		if e.kind() == unix.S_IFDIR {
			return err // it names what lay beneath
		}
		return fmt.Errorf("%s: %w", printable(e.path), err)
	}
	if errors.Is(err, unix.EEXIST) {
		err = errors.New("the name exists at the destination, and nothing is overwritten")
	}
	if err != nil {
		c.failed++
		say(c.warn, "%s: %v\n", printable(e.path), err)
	}
	return nil
}

// isFull tells that going on is of no use.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

func (c *copier) directory(parent int, name string, e *entry) error {
	if err := unix.Mkdirat(parent, name, 0o700); err != nil {
		return err
	}
	dir, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	err = c.children(e, func(child *entry) error { return c.entry(dir, child.name, child) })
	if isFull(err) {
		return err
	}
	// Last, since children change its time, and its mode may forbid them.
	return errors.Join(err, c.attributes(dir, e))
}

func (c *copier) symlink(parent int, name string, e *entry) error {
	target, err := c.fs.Readlink(e.attr.Ino)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(target, parent, name); err != nil {
		return err
	}
	return c.attributesAt(parent, name, e, false)
}

// file copies a regular file. Under its name it appears only when it is whole,
// where the file system below knows nameless files; else it is removed on failure.
func (c *copier) file(parent int, name string, e *entry) error {
	nameless := true
	fd, err := unix.Openat(parent, ".", unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		nameless = false
		fd, err = unix.Openat(parent, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if err = c.contents(f, e); err == nil {
		err = c.attributes(fd, e)
	}
	if err == nil && nameless {
		return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), parent, name, unix.AT_SYMLINK_FOLLOW)
	}
	if err != nil && !nameless {
		err = errors.Join(err, unix.Unlinkat(parent, name, 0))
	}
	return err
}

// contents copies data and leaves holes out.
func (c *copier) contents(f *os.File, e *entry) error {
	ino, size := e.attr.Ino, e.attr.Size
	if err := f.Truncate(int64(size)); err != nil {
		return err
	}
	for off := uint64(0); off < size; {
		data, err := c.fs.SeekData(ino, off)
		if errors.Is(err, vfs.ErrNoData) {
			return nil
		}
		if err != nil {
			return err
		}
		hole, err := c.fs.SeekHole(ino, data)
		if err != nil {
			return err
		}
		if err := c.rangeOf(f, ino, data, min(hole, size)); err != nil {
			return err
		}
		off = max(hole, data+1) // goes on, whatever the volume says
	}
	return nil
}

func (c *copier) rangeOf(f *os.File, ino vfs.Ino, off, end uint64) error {
	for off < end {
		n, err := c.fs.Read(ino, off, c.buf[:min(uint64(len(c.buf)), end-off)])
		if err != nil {
			return fmt.Errorf("at %d: %w", off, err)
		}
		if n == 0 {
			return nil
		}
		if _, err := f.WriteAt(c.buf[:n], int64(off)); err != nil {
			return err
		}
		off += uint64(n)
		c.done += uint64(n)
		c.bar.set(c.done, c.total)
	}
	return nil
}

// keptMode is what a copy may have of the mode: a file with set-user-ID would
// make whoever wrote to the volume root here.
func (c *copier) keptMode(e *entry) uint32 {
	mode := e.attr.Mode & 0o7777
	if e.kind() != unix.S_IFDIR || !c.root {
		mode &^= unix.S_ISUID | unix.S_ISGID
	}
	return mode
}

// attributes sets owner, attributes, mode and times of an open file.
func (c *copier) attributes(fd int, e *entry) error {
	if c.root {
		if err := unix.Fchown(fd, int(e.attr.UID), int(e.attr.GID)); err != nil {
			return err
		}
	}
	if err := c.xattrs(fd, e); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, c.keptMode(e)); err != nil {
		return err
	}
	return c.times(fd, "", e)
}

// attributesAt does so for what can not be opened; a link has no mode.
func (c *copier) attributesAt(parent int, name string, e *entry, mode bool) error {
	if c.root {
		if err := unix.Fchownat(parent, name, int(e.attr.UID), int(e.attr.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	if mode {
		if err := unix.Fchmodat(parent, name, c.keptMode(e), 0); err != nil {
			return err
		}
	}
	return c.times(parent, name, e)
}

func (c *copier) times(fd int, name string, e *entry) error {
	ts := []unix.Timespec{
		{Sec: e.attr.Atime.Sec, Nsec: int64(e.attr.Atime.Nsec)},
		{Sec: e.attr.Mtime.Sec, Nsec: int64(e.attr.Mtime.Nsec)},
	}
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags = unix.AT_EMPTY_PATH
	}
	return unix.UtimesNanoAt(fd, name, ts, flags)
}

// xattrs copies what the destination takes: it may know no attributes, or not
// allow them to us.
func (c *copier) xattrs(fd int, e *entry) error {
	names, err := c.fs.ListXattr(e.attr.Ino)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == "security.capability" {
			continue // as set-user-ID
		}
		value, err := c.fs.GetXattr(e.attr.Ino, name)
		if err != nil {
			return fmt.Errorf("attribute %s: %w", printable(name), err)
		}
		switch err := unix.Fsetxattr(fd, name, value, 0); {
		case err == nil, errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.E2BIG):
		default:
			return fmt.Errorf("attribute %s: %w", printable(name), err)
		}
	}
	return nil
}
