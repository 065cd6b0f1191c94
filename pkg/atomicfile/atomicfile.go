package atomicfile

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FS is the file system in which names are looked up; *os.Root implements it.
type FS interface {
	// OpenFile is like os.OpenFile. It also opens directories for reading.
	OpenFile(name string, flag int, perm os.FileMode) (*os.File, error)
	// Rename renames a file and replaces an existing one.
	Rename(oldname, newname string) error
	// Link gives a file a second name. It fails with os.ErrExist if the name exists.
	Link(oldname, newname string) error
	// Remove unlinks a file.
	Remove(name string) error
}

var _ FS = (*os.Root)(nil)

// Options say how a file is written. The zero value writes a private file durably, and replaces an
// existing one.
type Options struct {
	// FS is where names are looked up; nil means the process's file system.
	FS FS
	// Temp is the name of the temporary file; "" means a random name in the same directory.
	Temp string
	// Mode is the mode of the file, less the umask; 0: 0600.
	Mode os.FileMode
	// New makes Commit fail with os.ErrExist if a file of that name exists.
	New bool
	// Volatile omits fsync.
	Volatile bool
	// Step, if not nil, is called before each step with its name and the file's. An error ends the
	// step with it. For tests that fail or crash there.
	Step func(step string) error
}

// File is a file that gets its name from Commit.
type File struct {
	f    *os.File
	name string
	temp string
	o    Options
	done bool // it has its name, or was removed
}

// Write writes a complete file.
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

// Create creates a file that does not have its name yet. The caller then calls Commit or Discard;
// it may always defer Discard.
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
		// Without the file's own name, which may be as long as the file system allows.
		f.temp = filepath.Join(filepath.Dir(name), ".tmp-"+hex.EncodeToString(random[:]))
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

// ErrNotRegular refuses to replace a directory, a device or another special file.
var ErrNotRegular = errors.New("not a regular file")

// Write implements io.Writer.
func (f *File) Write(b []byte) (int, error) {
	if err := f.step("write " + f.temp); err != nil {
		return 0, err
	}
	return f.f.Write(b)
}

// Commit gives the file its name. After an error the name still refers to what it did before, with
// one exception: after an error of the last step it refers to the new content, which may not
// survive a crash.
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

// Discard removes a file that does not have its name yet. After Commit it does nothing.
func (f *File) Discard() {
	if f.done {
		return
	}
	f.done = true
	_ = f.f.Close() // the content is not needed any more
	if f.step("remove "+f.temp) == nil {
		_ = f.o.FS.Remove(f.temp) // the caller already handles another error
	}
}

func (f *File) step(s string) error {
	if f.o.Step == nil {
		return nil
	}
	return f.o.Step(s)
}

// SyncDir makes created and removed names in a directory durable.
func SyncDir(dir string) error { return syncDir(plain{}, dir) }

func syncDir(fs FS, dir string) error {
	d, err := fs.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// plain is the process's file system.
type plain struct{}

func (plain) OpenFile(name string, flag int, perm os.FileMode) (*os.File, error) {
	return os.OpenFile(name, flag, perm)
}
func (plain) Rename(from, to string) error { return os.Rename(from, to) }
func (plain) Link(from, to string) error   { return os.Link(from, to) }
func (plain) Remove(name string) error     { return os.Remove(name) }

// renameNew renames without replacing, for file systems without hard links.
func (plain) renameNew(from, to string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}
