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
	// ErrDevice means that an entry is a device node, and Options.Privileged is not set.
	ErrDevice = errors.New("device nodes are not copied")
	// ErrIncomplete means that some entries were not copied. Options.Failed was called for each.
	ErrIncomplete = errors.New("not everything was copied")
)

// Options of Copy. The zero value works.
type Options struct {
	// Failed is called for each entry that was not copied completely.
	Failed func(path string, err error)
	// Progress is called with the number of copied bytes, and the number of bytes in the file
	// system. Calls do not overlap.
	Progress func(done, total uint64)
	// Total is the number of bytes, if known; 0: what the file system uses.
	Total uint64
	// Interrupted returns an error when the copy is to end. Nil: never.
	Interrupted func() error

	// All keeps whatever can be kept: hard links, attributes of links and special files, access
	// times, and the attributes of a root directory. An attribute that the destination refuses is a
	// failure of its entry, which stays. Directories may exist; a file that exists with the same size
	// and time of modification counts as copied, but for attributes that it lacks. So an interrupted
	// copy can be repeated.
	All bool
	// Privileged keeps set-user-ID, set-group-ID and file capabilities, and copies device nodes.
	// Somebody who could write to the volume can use them to become root on this machine.
	Privileged bool
	// Fetch reads the content of many files at once. Nil: each file is read by itself.
	Fetch Fetcher
}

// Result counts what was left out on purpose.
type Result struct {
	Entries  uint64 // that were copied, at least in part
	Present  uint64 // files that were there already
	Stripped uint64 // that have lost privileges
}

// Copy copies files and trees of fs to a destination on this machine. If dest is a directory, it
// creates the copies in dest. For the root directory, it copies the contents. Otherwise, there must
// be one path, and dest becomes the name of the copy. If entries cannot be copied, Copy skips them
// and returns ErrIncomplete. Other errors end the copy.
func Copy(fs vfs.Reader, paths []string, dest string, o Options) (Result, error) {
	c := newCopier(fs, o)
	var sources []*walk.Entry
	for _, p := range paths {
		e, err := walk.Lookup(fs, p, false)
		if err != nil {
			return c.result, err
		}
		sources = append(sources, e)
	}
	d, into, name, err := c.destination(dest, len(sources))
	if err != nil {
		return c.result, err
	}
	c.base = d
	d.pending++ // until the end
	for _, e := range sources {
		if err = c.source(d, e, into, name); err != nil {
			break
		}
	}
	if err == nil {
		err = c.flush()
	}
	c.abandon()
	if err = c.end(err); err == nil && c.failed > 0 {
		err = &incompleteError{c.failed}
	}
	return c.result, err
}

// end closes the destination, and makes everything durable if err is nil.
func (c *copier) end(err error) error {
	d := c.base
	fd, derr := unix.Dup(d.fd)
	if err != nil || derr != nil {
		d.e = nil
	}
	d.walked = true
	d.pending--
	if aerr := c.endDirectory(d); aerr != nil {
		c.fail("/", aerr)
	}
	if derr != nil {
		return errors.Join(err, derr)
	}
	defer unix.Close(fd)
	if err != nil {
		return err
	}
	if err := unix.Syncfs(fd); err != nil {
		return fmt.Errorf("sync the destination: %w", err)
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
	result Result
	buf    []byte
	queue  queue
	base   *directory          // the destination
	links  map[vfs.Ino]*linked // inodes with several names that have been met
}

func newCopier(fs vfs.Reader, o Options) *copier {
	total := o.Total
	if total == 0 {
		sf := fs.StatFS()
		total = (sf.Blocks - min(sf.BlocksFree, sf.Blocks)) * uint64(sf.BlockSize)
	}
	return &copier{walker: walk.Walker{FS: fs}, fs: fs, root: os.Geteuid() == 0, opts: o, buf: make([]byte, walk.ReadBytes),
		queue: queue{progress: o.Progress, total: total, files: map[vfs.Ino]*pendingFile{}}, links: map[vfs.Ino]*linked{}}
}

// destination opens the directory to copy into. If into is false, the copy gets the given name in
// that directory.
func (c *copier) destination(dest string, sources int) (d *directory, into bool, name string, err error) {
	fd, err := unix.Open(dest, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		return &directory{fd: fd}, true, "", nil
	}
	if errors.Is(err, unix.ENOTDIR) {
		return nil, false, "", fmt.Errorf("%s %w", dest, ErrExists)
	}
	if !errors.Is(err, unix.ENOENT) {
		return nil, false, "", &os.PathError{Op: "open", Path: dest, Err: err}
	}
	if sources > 1 {
		return nil, false, "", fmt.Errorf("%s: %w", dest, ErrNoDirectory)
	}
	dir, name := filepath.Split(strings.TrimRight(dest, "/"))
	if dir == "" {
		dir = "."
	}
	fd, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, false, "", &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return &directory{fd: fd}, false, name, nil
}

func (c *copier) source(d *directory, e *walk.Entry, into bool, name string) error {
	if into {
		name = filepath.Base(e.Path)
		if e.Path == "/" {
			if c.opts.All {
				d.e = e // it gets the attributes of the root
			}
			return c.walker.Children(e, func(child *walk.Entry) error { return c.entry(d, child.Name, child) })
		}
	}
	if err := walk.CheckName(name); err != nil {
		return err
	}
	return c.entry(d, name, e)
}

// fail notes that an entry was not copied completely.
func (c *copier) fail(path string, err error) {
	c.failed++
	if c.opts.Failed != nil {
		c.opts.Failed(path, err)
	}
}
