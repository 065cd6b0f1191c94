package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// entry is the expected state of a file.
type entry struct {
	mode  fs.FileMode // type and permissions
	size  int64
	mtime time.Time
	sum   [sha256.Size]byte
	link  string // a symlink's target
}

// manifest is the expected content of the volume, by slash-separated path from its root.
type manifest struct {
	mu      sync.Mutex
	entries map[string]entry // guarded by mu
	needles *needles
	bytes   int64 // guarded by mu
}

func newManifest() *manifest {
	return &manifest{entries: map[string]entry{}, needles: newNeedles()}
}

func (m *manifest) put(name string, e entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bytes += e.size - m.entries[name].size
	m.entries[name] = e
	m.needles.addName(filepath.Base(name))
}

// count returns the number of entries and the size of their contents.
func (m *manifest) count() (files int, sizeBytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.entries), m.bytes
}

const bufBytes = 256 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, bufBytes); return &b }}

// hashing copies r to w, which may be nil, and returns the digest. It calls moved for each piece.
func hashing(ctx context.Context, w io.Writer, r io.Reader, n *needles, moved func(int64)) (sum [sha256.Size]byte, size int64, err error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	h := sha256.New()
	for {
		if err := ctx.Err(); err != nil {
			return sum, size, err
		}
		k, err := io.ReadFull(r, *buf)
		piece := (*buf)[:k]
		size += int64(k)
		h.Write(piece)
		if n != nil {
			n.addContent(piece)
		}
		if w != nil && k > 0 {
			if _, err := w.Write(piece); err != nil {
				return sum, size, err
			}
		}
		moved(int64(k))
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			h.Sum(sum[:0])
			return sum, size, nil
		case err != nil:
			return sum, size, err
		}
	}
}

// treeSize adds up the sizes of a tree's regular files.
func treeSize(ctx context.Context, dir string) (files int, sizeBytes int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err == nil && fi.Mode().IsRegular() {
			files++
			sizeBytes += fi.Size()
		}
		return err
	})
	return files, sizeBytes, err
}

func workers(ctx context.Context) (*errgroup.Group, context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * runtime.GOMAXPROCS(0))
	return g, ctx
}

// copyTree copies from to the directory name in the volume, with modes and times, and adds all
// files to the manifest.
func (m *manifest) copyTree(ctx context.Context, from, root, name string, moved func(int64)) error {
	g, ctx := workers(ctx)
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		rel = filepath.Join(name, rel)
		to := filepath.Join(root, rel)
		fi, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			if err := os.Mkdir(to, fi.Mode().Perm()|0o700); err != nil {
				return err
			}
			return m.enter(ctx, root, rel, moved)
		case fi.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			if err := os.Symlink(target, to); err != nil {
				return err
			}
			m.put(rel, entry{mode: fs.ModeSymlink, link: target})
		case fi.Mode().IsRegular():
			g.Go(func() error { return m.copyFile(ctx, path, fi, to, rel, moved) })
		}
		return nil
	})
	return errors.Join(g.Wait(), err)
}

func (m *manifest) copyFile(ctx context.Context, from string, fi fs.FileInfo, to, rel string, moved func(int64)) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fi.Mode().Perm())
	if err != nil {
		return err
	}
	sum, size, err := hashing(ctx, out, in, m.needles, moved)
	if err == nil {
		err = unix.Fchmod(int(out.Fd()), uint32(fi.Mode().Perm())) // the umask has removed bits
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("copy %s: %w", rel, err)
	}
	if err := os.Chtimes(to, fi.ModTime(), fi.ModTime()); err != nil {
		return err
	}
	m.put(rel, entry{mode: fi.Mode().Perm(), size: size, mtime: fi.ModTime(), sum: sum})
	return nil
}

// anyFile returns a regular, nonempty file of the copied tree. It is always the same file.
func (m *manifest) anyFile() (string, entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for name, e := range m.entries {
		if e.mode.IsRegular() && e.size > 0 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "", entry{}
	}
	name := slices.Min(names)
	return name, m.entries[name]
}

// enter adds a file that a program created in the volume to the manifest, as it is now.
func (m *manifest) enter(ctx context.Context, root, rel string, moved func(int64)) error {
	e, err := read(ctx, root, rel, m.needles, moved)
	if err == nil {
		m.put(rel, e)
	}
	return err
}

// enterTree adds a directory and everything below it to the manifest.
func (m *manifest) enterTree(ctx context.Context, root, dir string, moved func(int64)) error {
	return filepath.WalkDir(filepath.Join(root, dir), func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		return m.enter(ctx, root, rel, moved)
	})
}

// read returns the state of a file. It ignores size and time of directories, because they are not
// specified.
func read(ctx context.Context, root, rel string, n *needles, moved func(int64)) (entry, error) {
	path := filepath.Join(root, rel)
	fi, err := os.Lstat(path)
	if err != nil {
		return entry{}, err
	}
	e := entry{mode: fi.Mode() & (fs.ModeType | fs.ModePerm)}
	switch {
	case fi.Mode()&fs.ModeSymlink != 0:
		e.mode = fs.ModeSymlink
		e.link, err = os.Readlink(path)
	case fi.Mode().IsRegular():
		e.mtime = fi.ModTime()
		var f *os.File
		if f, err = os.Open(path); err != nil {
			return e, err
		}
		defer f.Close()
		// Drop the kernel's cache, so that the bytes come from the volume.
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			return e, err
		}
		e.sum, e.size, err = hashing(ctx, nil, f, n, moved)
		if err == nil && e.size != fi.Size() {
			err = fmt.Errorf("%d bytes instead of %d", e.size, fi.Size())
		}
	}
	if err != nil {
		return e, fmt.Errorf("read %s: %w", rel, err)
	}
	return e, nil
}

// verify compares everything in the volume at root with the manifest. No file may differ, be
// missing or be unexpected.
func (m *manifest) verify(ctx context.Context, root string, moved func(int64)) error {
	seen := 0
	g, ctx := workers(ctx)
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || path == root {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		m.mu.Lock()
		want, ok := m.entries[rel]
		m.mu.Unlock()
		if !ok {
			return fmt.Errorf("%s is in the volume, but is not expected there", rel)
		}
		seen++
		g.Go(func() error {
			got, err := read(ctx, root, rel, nil, moved)
			if err == nil {
				err = want.compare(got)
			}
			if err != nil {
				return fmt.Errorf("verify %s: %w", rel, err)
			}
			return nil
		})
		return nil
	})
	if err := errors.Join(g.Wait(), err); err != nil {
		return err
	}
	if files, _ := m.count(); seen != files {
		return m.missing(root, files-seen)
	}
	return nil
}

// missing returns an error with one of the missing files.
func (m *manifest) missing(root string, count int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for rel := range m.entries {
		if _, err := os.Lstat(filepath.Join(root, rel)); err != nil {
			return fmt.Errorf("%d files are lost, for example: %w", count, err)
		}
	}
	return fmt.Errorf("%d files are not listed by their directories", count)
}

// compare returns how got differs from the expected state.
func (e entry) compare(got entry) error {
	switch {
	case got.mode != e.mode:
		return fmt.Errorf("mode %v instead of %v", got.mode, e.mode)
	case got.link != e.link:
		return fmt.Errorf("a link to %q instead of %q", got.link, e.link)
	case got.size != e.size:
		return fmt.Errorf("%d bytes instead of %d", got.size, e.size)
	case got.sum != e.sum:
		return fmt.Errorf("SHA-256 %x instead of %x", got.sum, e.sum)
	case !got.mtime.Equal(e.mtime):
		return fmt.Errorf("modified %v instead of %v", got.mtime, e.mtime)
	}
	return nil
}

// syncVolume makes all changes in the volume durable: fsync of its root directory commits
// (docs/design.md).
func syncVolume(root string) error {
	f, err := os.Open(root)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
