package chunkstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/atomicfile"
)

// Dir is a store in a directory. A key is the path of a file. Several processes may use the
// directory at once. Dir never follows a link out of the directory.
//
// It writes an object to a temporary file and syncs it. Then it gives the file its name, either
// with link, which never replaces a file, or with rename. It syncs the directory before the call
// returns.
type Dir struct {
	root *os.Root
	// durable contains the directories whose own names are known to be durable.
	durable sync.Map // path → nil
	// readOnly is why nothing can be written; nil: it can.
	readOnly error
}

const (
	tempDir = ".tmp"
	// tempAge is the age after which a temporary file is unused, because writing an object never
	// takes so long.
	tempAge = 24 * time.Hour
)

// OpenDir opens the store in an existing directory. It removes temporary files of processes that
// have died.
func OpenDir(dir string) (*Dir, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	d := &Dir{root: root}
	err = d.makeDir(tempDir)
	if err == nil {
		err = d.sweep(time.Now().Add(-tempAge))
	}
	if err != nil && isReadOnly(err) { // it can be read
		d.readOnly, err = err, nil
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the store: %w", err), root.Close())
	}
	return d, nil
}

// isReadOnly reports whether an error says that this process may not write there.
func isReadOnly(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS)
}

// String returns the directory.
func (d *Dir) String() string { return d.root.Name() }

// sweep removes temporary files that were last written before a given time.
func (d *Dir) sweep(before time.Time) error {
	f, err := d.root.Open(tempDir)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		entries, err := f.ReadDir(1024)
		for _, e := range entries {
			if info, err := e.Info(); err == nil && info.ModTime().Before(before) {
				if err := d.remove(path.Join(tempDir, e.Name())); err != nil {
					return err
				}
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// remove removes a file, if it exists.
func (d *Dir) remove(name string) error {
	if err := d.root.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Get implements Store.
func (d *Dir) Get(ctx context.Context, key string, room []byte, limit int) ([]byte, error) {
	if err := ready(ctx, key); err != nil {
		return nil, err
	}
	b, err := d.read(key, room, limit)
	if err != nil {
		return nil, objectError("get", key, notFound(err))
	}
	return b, nil
}

func (d *Dir) read(key string, room []byte, limit int) ([]byte, error) {
	f, size, err := d.open(key)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > int64(limit) {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, size)
	}
	b := inRoom(room, size)
	_, err = io.ReadFull(f, b)
	return b, err
}

// open opens an object's file, and returns its length.
func (d *Dir) open(key string) (f *os.File, size int64, err error) {
	f, err = d.root.OpenFile(key, os.O_RDONLY|unix.O_NONBLOCK, 0) // opening a pipe would block
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	switch {
	case err != nil:
	case fi.IsDir():
		err = fs.ErrNotExist
	case !fi.Mode().IsRegular():
		err = fmt.Errorf("not a regular file: %w", fs.ErrInvalid)
	default:
		return f, fi.Size(), nil
	}
	f.Close()
	return nil, 0, err
}

// GetRange implements Store.
func (d *Dir) GetRange(ctx context.Context, key string, off int64, dst []byte) error {
	if err := ready(ctx, key); err != nil {
		return err
	}
	if err := d.readRange(key, off, dst); err != nil {
		return objectError("get", key, notFound(err))
	}
	return nil
}

func (d *Dir) readRange(key string, off int64, dst []byte) error {
	f, size, err := d.open(key)
	if err != nil {
		return err
	}
	defer f.Close()
	if off < 0 || off > size || size-off < int64(len(dst)) {
		return rangeError(off, len(dst), size)
	}
	_, err = f.ReadAt(dst, off)
	return err
}

// notFound translates err to an error of this package.
func notFound(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return ErrNotFound
	}
	return err
}

// Put implements Store.
func (d *Dir) Put(ctx context.Context, key string, data []byte) (created bool, err error) {
	if err := ready(ctx, key); err != nil {
		return false, err
	}
	// Most chunks of a snapshot already exist.
	if _, err := d.root.Lstat(key); err == nil {
		// The process that linked it may not have synced the directory yet.
		return false, d.failed("put", key, d.flushDir(path.Dir(key)))
	}
	err = d.write(ctx, key, data, true)
	if errors.Is(err, fs.ErrExist) { // another process was faster; it may not have synced the directory yet
		return false, d.failed("put", key, d.flushDir(path.Dir(key)))
	}
	return err == nil, d.failed("put", key, err)
}

// Replace implements Store.
func (d *Dir) Replace(ctx context.Context, key string, data []byte) error {
	if err := ready(ctx, key); err != nil {
		return err
	}
	return d.failed("replace", key, d.write(ctx, key, data, false))
}

func (d *Dir) failed(op, key string, err error) error {
	if err == nil {
		return nil
	}
	if isReadOnly(err) {
		err = fmt.Errorf("%w: %w", ErrDenied, err)
	}
	return objectError(op, key, err)
}

// directBytes is the size from which on objects are written past the page cache.
const directBytes = 1 << 20

// write writes data durably to a file, which gets its name only when it is complete. If the file
// must be new and already exists, it returns fs.ErrExist.
func (d *Dir) write(ctx context.Context, key string, data []byte, isNew bool) error {
	if d.readOnly != nil {
		return d.readOnly
	}
	var random [12]byte
	rand.Read(random[:])
	f, err := atomicfile.Create(key, atomicfile.Options{FS: d.root, Temp: path.Join(tempDir, hex.EncodeToString(random[:])), New: isNew})
	if err != nil {
		return err
	}
	defer f.Discard()
	write := f.Write
	if len(data) >= directBytes {
		write = f.WriteDirect
	}
	if _, err := write(data); err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := d.makeDir(path.Dir(key)); err != nil {
		return err
	}
	return f.Commit()
}

// makeDir creates a directory and all directories above it, durably.
func (d *Dir) makeDir(dir string) error {
	if _, ok := d.durable.Load(dir); ok || dir == "." {
		return nil
	}
	if err := d.makeDir(path.Dir(dir)); err != nil {
		return err
	}
	if err := d.root.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Sync even if it existed: the process that created it may not have synced it yet.
	if err := d.flushDir(path.Dir(dir)); err != nil {
		return err
	}
	d.durable.Store(dir, nil)
	return nil
}

func (d *Dir) flushDir(dir string) error {
	f, err := d.root.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Stat implements Store.
func (d *Dir) Stat(ctx context.Context, key string) (Info, error) {
	if err := ready(ctx, key); err != nil {
		return Info{}, err
	}
	fi, err := d.root.Lstat(key)
	if err == nil && fi.IsDir() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Info{}, objectError("stat", key, notFound(err))
	}
	return Info{Key: key, Bytes: fi.Size(), Modified: fi.ModTime()}, nil
}

// Delete implements Store.
func (d *Dir) Delete(ctx context.Context, key string) error {
	if err := ready(ctx, key); err != nil {
		return err
	}
	err := d.root.Remove(key)
	if err == nil {
		err = d.flushDir(path.Dir(key))
	}
	if err = notFound(err); errors.Is(err, ErrNotFound) {
		return nil
	}
	return d.failed("delete", key, err)
}

// List implements Store. It skips files and directories whose names are invalid for a store, such as
// lost+found.
func (d *Dir) List(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := checkList(prefix, after); err != nil {
			yield(Info{}, err)
			return
		}
		// Only the last complete directory of the prefix is searched.
		dir := "."
		if i := strings.LastIndexByte(prefix, '/'); i > 0 {
			dir = prefix[:i]
		}
		if err := d.walk(ctx, dir, prefix, after, yield); err != nil && !errors.Is(err, errStop) {
			yield(Info{}, fmt.Errorf("list %s: %w", prefix, err))
		}
	}
}

var errStop = errors.New("stop")

// walk yields the objects below a directory and after a key, by key.
func (d *Dir) walk(ctx context.Context, dir, prefix, after string, yield func(Info, error) bool) error {
	entries, err := d.readDir(dir)
	if err != nil {
		if errors.Is(notFound(err), ErrNotFound) {
			return nil
		}
		return err
	}
	for _, e := range entries {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		key := path.Join(dir, e.Name())
		if !strings.HasPrefix(key, prefix) && !strings.HasPrefix(prefix, key+"/") || CheckKey(key) != nil {
			continue
		}
		if e.IsDir() {
			if end := key + "0"; after >= end { // "0" follows "/": all entries of the directory come before
				continue
			}
			if err := d.walk(ctx, key, prefix, after, yield); err != nil {
				return err
			}
			continue
		}
		if key <= after {
			continue
		}
		info, err := e.Info()
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return err
		}
		if info.Mode().IsRegular() && !yield(Info{Key: key, Bytes: info.Size(), Modified: info.ModTime()}, nil) {
			return errStop
		}
	}
	return nil
}

// readDir reads a directory in the order of keys. A subdirectory is sorted as its name followed by
// a slash, because the keys in it begin so.
func (d *Dir) readDir(dir string) ([]fs.DirEntry, error) {
	f, err := d.root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	place := func(e fs.DirEntry) string {
		if e.IsDir() {
			return e.Name() + "/"
		}
		return e.Name()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(place(a), place(b)) })
	return entries, nil
}

// Close implements Store.
func (d *Dir) Close() error { return d.root.Close() }
