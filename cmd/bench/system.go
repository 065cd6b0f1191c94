package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/fusefs"
)

const imageBytes = 3 << 30

// patience is the maximum time for a server to write back and end.
const patience = time.Minute

// system is a file system under test.
type system struct {
	name string
	b    *bench
	work string
	dir  string // the directory of the jobs
	dev  string // loop device; "" for the file system in memory
	kind kind

	mounted    bool
	connection atomic.Uint32 // 0 if it is not FUSE
	server     *server
	profiling  string
}

func newSystem(ctx context.Context, b *bench, name string) (*system, error) {
	kinds := map[string]kind{"ours": &ours{}, "gocryptfs": &gocryptfs{}, "ext4": ext4{}, "ram": ram{}}
	k, ok := kinds[name]
	if !ok {
		return nil, errors.New("unknown file system: must be ours, gocryptfs, ext4 or ram")
	}
	s := &system{name: name, b: b, work: filepath.Join(b.work, name), kind: k}
	s.dir = filepath.Join(s.work, "mnt")
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, err
	}
	if name == "ram" {
		return s, nil
	}
	img := filepath.Join(s.work, "image")
	if err := makeImage(ctx, img); err != nil {
		return nil, err
	}
	dev, err := b.loop(ctx, img)
	if err != nil {
		return nil, err
	}
	s.dev = dev
	if b.gp3 {
		if err := b.throttle(dev); err != nil {
			return nil, err
		}
		// The throttle counts I/Os before adjacent ones are merged, but EBS counts merged I/Os. A
		// second loop device above the first one merges them.
		if s.dev, err = b.loop(ctx, dev); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// makeImage writes every block once, because writing into a hole has a cost that differs between
// file systems.
func makeImage(ctx context.Context, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	zero := make([]byte, 4<<20)
	for n := 0; n < imageBytes; n += len(zero) {
		if _, err := f.Write(zero); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return f.Sync()
}

func (b *bench) loop(ctx context.Context, file string) (string, error) {
	out, err := command(ctx, "losetup", "--find", "--show", "--direct-io=on", "--sector-size=4096", file)
	if err != nil {
		return "", err
	}
	dev := strings.TrimSpace(out)
	b.onEnd(func() error {
		_, err := command(context.Background(), "losetup", "--detach", dev)
		return err
	})
	return dev, nil
}

// format formats the file system again. Afterwards, it can be mounted and unmounted any number of
// times.
func (s *system) format(ctx context.Context) error { return s.kind.format(ctx, s) }

func (s *system) mount(ctx context.Context) error {
	if err := s.kind.mount(ctx, s); err != nil {
		return errors.Join(err, s.kind.unmount(s))
	}
	s.mounted = true
	if s.name != "ext4" {
		id, err := fusefs.ConnectionID(s.dir)
		if err != nil {
			return err
		}
		s.connection.Store(id)
	}
	if s.profiling != "" {
		p := s.profiling
		s.profiling = ""
		s.profile(p + "-again")
	}
	return nil
}

func (s *system) unmount() error {
	if !s.mounted {
		return nil
	}
	if p := s.profiling; p != "" {
		s.profile("")
		s.profiling = p
	}
	s.mounted = false
	err := s.kind.unmount(s)
	s.connection.Store(0)
	return err
}

// cold drops all caches.
func (s *system) cold(ctx context.Context) error {
	if s.name != "ram" { // its files would be gone
		if err := s.unmount(); err != nil {
			return err
		}
		if err := dropCaches(); err != nil {
			return err
		}
		return s.mount(ctx)
	}
	return dropCaches()
}

func dropCaches() error {
	unix.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
}

// abort aborts the connection, so that all calls that wait for the server fail.
func (s *system) abort() {
	if id := s.connection.Load(); id != 0 {
		_ = fusefs.AbortConnection(id) // it may be gone
	}
}

func (s *system) settle() error { return s.kind.settle(s) }

// profile starts a profile of our server, which continues across remounts. "" ends it.
func (s *system) profile(path string) {
	if s.server == nil || !s.server.commands {
		return
	}
	cmd := "profile " + path
	if path == "" {
		cmd = "stop"
	}
	if err := s.server.command(cmd); err != nil {
		progress("profile: %v", err)
	}
	s.profiling = path
}

// fsync of a file or directory.
func fsync(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Fsync(fd); err != nil {
		return &os.PathError{Op: "fsync", Path: path, Err: err}
	}
	return nil
}

// syncfs writes back a whole kernel file system.
func syncfs(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Syncfs(fd); err != nil {
		return &os.PathError{Op: "syncfs", Path: path, Err: err}
	}
	return nil
}

// unmountFUSE unmounts and waits for the server. It aborts the connection of a mount that is in use
// or dead.
func (s *system) unmountFUSE() error {
	p := s.server
	if p == nil {
		return nil
	}
	s.server = nil
	err := fusefs.Unmount(s.dir, false)
	if err != nil {
		s.abort()
		err = errors.Join(err, fusefs.Unmount(s.dir, true))
	}
	return errors.Join(err, p.wait())
}
