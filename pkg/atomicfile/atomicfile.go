package atomicfile

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FS is what names are relative to; *os.Root is one.
type FS interface {
	// OpenFile is os.OpenFile. It also opens directories for reading.
	OpenFile(name string, flag int, perm os.FileMode) (*os.File, error)
	// Rename replaces what has the new name.
	Rename(oldname, newname string) error
	// Link gives a file a second name, and fails with os.ErrExist if there is such a name.
	Link(oldname, newname string) error
	// Remove unlinks a file.
	Remove(name string) error
}

var _ FS = (*os.Root)(nil)

// Options say how a file is written. The zero value writes a private file durably, and replaces.
type Options struct {
	// FS is where names are looked up; nil: names are those of the process.
	FS FS
	// Temp is the name of the temporary file; "": a random one beside the file.
	Temp string
	// Mode is the mode of the file, less the umask; 0: 0600.
	Mode os.FileMode
	// New has Commit fail with os.ErrExist if there is a file of that name.
	New bool
	// Volatile leaves out fsync.
	Volatile bool
	// Step, if not nil, is called before each step, with its name and the file's; an error ends
	// the step with it. For tests that fail or crash there.
	Step func(step string) error
}

// File is a file that gets its name by Commit.
type File struct {
	f    *os.File
	name string
	temp string
	o    Options
	done bool // it has its name, or is gone
}

// Write writes a file as a whole.
func Write(name string, data []byte, o Options) error {
	f, err := Create(name, o)
	if err != nil {
		return err
	}
	defer f.Discard()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Commit()
}

// Create begins a file that is to get a name. After it comes Commit or Discard; Discard may always
// be deferred.
func Create(name string, o Options) (*File, error) {
	if o.FS == nil {
		if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
			return nil, &os.PathError{Op: "replace", Path: name, Err: ErrNotRegular}
		}
		o.FS = plain{}
	}
	if o.Mode == 0 {
		o.Mode = 0o600
	}
	f := &File{name: name, temp: o.Temp, o: o}
	flags := os.O_WRONLY | os.O_CREATE | unix.O_NOFOLLOW
	if f.temp == "" {
		var random [8]byte
		rand.Read(random[:])
		f.temp = filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+"."+hex.EncodeToString(random[:]))
		flags |= os.O_EXCL
	} else {
		flags |= os.O_TRUNC
	}
	if err := f.step("create " + f.temp); err != nil {
		return nil, err
	}
	var err error
	f.f, err = o.FS.OpenFile(f.temp, flags, o.Mode)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// ErrNotRegular refuses to replace a directory, a device and the like.
var ErrNotRegular = errors.New("it is not a regular file")

// Write implements io.Writer.
func (f *File) Write(b []byte) (int, error) {
	if err := f.step("write " + f.temp); err != nil {
		return 0, err
	}
	return f.f.Write(b)
}

// Commit gives the file its name. After an error the name holds what it held before, unless the
// error is of the last step: then the new content has the name, but may not survive a crash.
func (f *File) Commit() error {
	if f.done {
		return os.ErrClosed
	}
	defer f.Discard()
	if !f.o.Volatile {
		if err := f.step("fsync " + f.temp); err != nil {
			return err
		}
		if err := f.f.Sync(); err != nil {
			return err
		}
	}
	if err := f.f.Close(); err != nil {
		return err
	}
	if err := f.step("rename " + f.temp); err != nil {
		return err
	}
	if err := f.rename(); err != nil {
		return err
	}
	f.done = true
	if f.o.Volatile {
		return nil
	}
	if err := f.step("fsync dir"); err != nil {
		return err
	}
	return syncDir(f.o.FS, filepath.Dir(f.name))
}

func (f *File) rename() error {
	if !f.o.New {
		return f.o.FS.Rename(f.temp, f.name)
	}
	if r, ok := f.o.FS.(interface{ renameNew(from, to string) error }); ok {
		if err := r.renameNew(f.temp, f.name); !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
			return err
		}
	}
	if err := f.o.FS.Link(f.temp, f.name); err != nil {
		return err
	}
	_ = f.o.FS.Remove(f.temp) // a second name does no harm
	return nil
}

// Discard removes a file that has no name yet. After Commit it does nothing.
func (f *File) Discard() {
	if f.done {
		return
	}
	f.done = true
	_ = f.f.Close() // nothing of it is wanted any more
	if f.step("remove "+f.temp) == nil {
		_ = f.o.FS.Remove(f.temp) // another error is under way
	}
}

func (f *File) step(s string) error {
	if f.o.Step == nil {
		return nil
	}
	return f.o.Step(s)
}

// SyncDir makes the names in a directory durable: those made, and those removed.
func SyncDir(dir string) error { return syncDir(plain{}, dir) }

func syncDir(fs FS, dir string) error {
	d, err := fs.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// plain are the names of the process.
type plain struct{}

func (plain) OpenFile(name string, flag int, perm os.FileMode) (*os.File, error) {
	return os.OpenFile(name, flag, perm)
}
func (plain) Rename(from, to string) error { return os.Rename(from, to) }
func (plain) Link(from, to string) error   { return os.Link(from, to) }
func (plain) Remove(name string) error     { return os.Remove(name) }

// renameNew renames without replacing: some file systems have no second names.
func (plain) renameNew(from, to string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}
