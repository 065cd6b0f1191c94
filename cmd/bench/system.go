package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/fusefs"
)

const imageBytes = 3 << 30

// patience is how long a server may take to write back and end.
const patience = time.Minute

// system is a file system under test.
type system struct {
	name string
	b    *bench
	work string
	dir  string // where the jobs run
	dev  string // loop device; none for the one in memory
	kind kind

	mounted    bool
	connection atomic.Uint32 // 0: not FUSE
	server     *server
	profiling  string
}

// kind is how a file system is formatted, mounted and unmounted.
type kind interface {
	format(ctx context.Context, s *system) error
	mount(ctx context.Context, s *system) error
	unmount(s *system) error
	// settle writes back everything, so that the next job starts clean.
	settle(s *system) error
}

func newSystem(ctx context.Context, b *bench, name string) (*system, error) {
	kinds := map[string]kind{"ours": &ours{}, "gocryptfs": &gocryptfs{}, "ext4": ext4{}, "ram": ram{}}
	k, ok := kinds[name]
	if !ok {
		return nil, errors.New("no such file system: ours, gocryptfs, ext4 or ram")
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
		// The throttle counts what reaches it, before neighbours merge. EBS counts
		// merged I/Os: a second loop device above the first merges them.
		if s.dev, err = b.loop(ctx, dev); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// makeImage writes every block once: writing into a hole costs extra, and not everybody the same.
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

// format makes the file system anew; mount and unmount may follow each other any number of times.
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

// cold forgets everything that was read.
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

// abort makes everything that waits for the server fail.
func (s *system) abort() {
	if id := s.connection.Load(); id != 0 {
		_ = fusefs.AbortConnection(id) // it may be gone
	}
}

func (s *system) settle() error { return s.kind.settle(s) }

// profile starts a profile of our server, or ends it (""), across remounts.
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

// command runs a program to its end.
func command(ctx context.Context, name string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, name, args...)
	var stderr strings.Builder
	c.Stderr = &stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt is ours to handle
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// server is a mount server's process.
type server struct {
	cmd      *exec.Cmd
	in       io.WriteCloser
	out      *bufio.Reader
	commands bool // it understands profile and stop
	done     chan struct{}
	err      error // set before done is closed
}

func startServer(input string, name string, args ...string) (*server, error) {
	p := &server{cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, outW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout = outW
	p.in, p.out = in, bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, out.Close(), outW.Close())
	}
	outW.Close()
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	if input != "" {
		_, err = io.WriteString(in, input+"\n")
	}
	return p, err
}

// command sends a line and waits for the answer.
func (p *server) command(line string) error {
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		return err
	}
	answer, err := p.out.ReadString('\n')
	if err != nil {
		return err
	}
	if answer = strings.TrimSpace(answer); answer != "ok" {
		return errors.New(answer)
	}
	return nil
}

// wait waits for the end of a server whose mount has ended.
func (p *server) wait() error {
	select {
	case <-p.done:
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("the server did not end within %v and was killed", patience), p.cmd.Process.Kill())
	}
	_ = p.in.Close() // nobody reads it any more
	return p.err
}

// untilMounted waits until dir is a mount point.
func (p *server) untilMounted(ctx context.Context, dir string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := fusefs.ConnectionID(dir); err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("the server ended: %w", p.err)
		case <-ctx.Done():
			return errors.Join(ctx.Err(), p.cmd.Process.Kill())
		case <-tick.C:
		}
	}
}

// unmountFUSE unmounts and waits for the server. A mount that is in use or dead is cut off.
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

// ours is a sealed volume.
type ours struct{ key string }

func self() (string, error) { return os.Executable() }

func (o *ours) keyFile(s *system) string { return filepath.Join(s.work, "key") }

func (o *ours) format(ctx context.Context, s *system) error {
	b := make([]byte, 32)
	rand.Read(b)
	o.key = hex.EncodeToString(b)
	if err := os.WriteFile(o.keyFile(s), []byte(o.key), 0o600); err != nil {
		return err
	}
	if s.b.sealvol != "" {
		args := []string{"mkfs", "--force", "--key-file", o.keyFile(s)}
		if s.b.suite != "" {
			args = append(args, "--suite", s.b.suite)
		}
		_, err := command(ctx, s.b.sealvol, append(args, s.dev)...)
		return err
	}
	exe, err := self()
	if err != nil {
		return err
	}
	p, err := startServer(o.key, exe, "serve", "-format", "-device", s.dev, "-suite", s.b.suite)
	if err != nil {
		return err
	}
	return p.wait()
}

func (o *ours) mount(ctx context.Context, s *system) error {
	if s.b.sealvol != "" {
		_, err := command(ctx, s.b.sealvol, "mount", "--key-file", o.keyFile(s), s.dev, s.dir)
		return err
	}
	exe, err := self()
	if err != nil {
		return err
	}
	return s.serveSelf(ctx, exe, o.key, "-device", s.dev)
}

// serveSelf starts this program as a server and waits until it answers.
func (s *system) serveSelf(ctx context.Context, exe, key string, args ...string) error {
	p, err := startServer(key, exe, append([]string{"serve", "-dir", s.dir}, args...)...)
	if err != nil {
		return err
	}
	s.server = p
	p.commands = true
	stop := context.AfterFunc(ctx, func() { _ = p.cmd.Process.Kill() }) // it ends the wait, too
	defer stop()
	line, err := p.out.ReadString('\n')
	if err != nil || line != "ready\n" {
		return fmt.Errorf("the server did not start: %q %w", line, err)
	}
	return nil
}

func (o *ours) unmount(s *system) error {
	if s.b.sealvol == "" {
		return s.unmountFUSE()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := command(ctx, s.b.sealvol, "umount", s.dir)
	if err != nil {
		s.abort()
		if _, still := fusefs.ConnectionID(s.dir); still == nil {
			err = errors.Join(err, fusefs.Unmount(s.dir, true))
		}
	}
	return err
}

func (o *ours) settle(s *system) error { return fsync(s.dir) } // commits everything

// ram is fusefs over a file system in memory: what any server behind it could reach.
type ram struct{}

func (ram) format(context.Context, *system) error { return nil }

func (ram) mount(ctx context.Context, s *system) error {
	exe, err := self()
	if err != nil {
		return err
	}
	return s.serveSelf(ctx, exe, strings.Repeat("00", 32))
}

func (ram) unmount(s *system) error { return s.unmountFUSE() }
func (ram) settle(*system) error    { return nil }

// ext4 is mounted on the loop device.
type ext4 struct{}

func mkfsExt4(ctx context.Context, dev string) error {
	_, err := command(ctx, "mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", dev)
	return err
}

func mountExt4(dev, dir string) error {
	if err := unix.Mount(dev, dir, "ext4", unix.MS_NOATIME, ""); err != nil {
		return &os.PathError{Op: "mount", Path: dir, Err: err}
	}
	return nil
}

// unmountExt4 waits a little for a server that lets go.
func unmountExt4(dir string) error {
	var err error
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 100 {
		if err = unix.Unmount(dir, 0); !errors.Is(err, unix.EBUSY) {
			break
		}
		<-tick.C
	}
	if err != nil {
		return &os.PathError{Op: "unmount", Path: dir, Err: errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))}
	}
	return nil
}

func (ext4) format(ctx context.Context, s *system) error { return mkfsExt4(ctx, s.dev) }
func (ext4) mount(_ context.Context, s *system) error    { return mountExt4(s.dev, s.dir) }
func (ext4) unmount(s *system) error                     { return unmountExt4(s.dir) }
func (ext4) settle(s *system) error                      { return syncfs(s.dir) }

// gocryptfs stands on an ext4.
type gocryptfs struct{ below bool }

func (g *gocryptfs) backing(s *system) string { return filepath.Join(s.work, "ext4") }
func (g *gocryptfs) cipher(s *system) string  { return filepath.Join(g.backing(s), "cipher") }
func (g *gocryptfs) pass(s *system) string    { return filepath.Join(s.work, "pass") }

func (g *gocryptfs) format(ctx context.Context, s *system) (err error) {
	if err := mkfsExt4(ctx, s.dev); err != nil {
		return err
	}
	if err := os.WriteFile(g.pass(s), []byte("of no use to anybody\n"), 0o600); err != nil {
		return err
	}
	if err := os.MkdirAll(g.backing(s), 0o755); err != nil {
		return err
	}
	if err := mountExt4(s.dev, g.backing(s)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmountExt4(g.backing(s))) }()
	if err := os.Mkdir(g.cipher(s), 0o755); err != nil {
		return err
	}
	_, err = command(ctx, "gocryptfs", "-q", "-init", "-scryptn", "10", "-passfile", g.pass(s), g.cipher(s))
	return err
}

func (g *gocryptfs) mount(ctx context.Context, s *system) error {
	if err := mountExt4(s.dev, g.backing(s)); err != nil {
		return err
	}
	g.below = true
	p, err := startServer("", "gocryptfs", "-q", "-fg", "-allow_other", "-ko", "noatime", "-passfile", g.pass(s), g.cipher(s), s.dir)
	if err != nil {
		return err
	}
	s.server = p
	return p.untilMounted(ctx, s.dir)
}

func (g *gocryptfs) unmount(s *system) error {
	err := s.unmountFUSE()
	if !g.below {
		return err
	}
	g.below = false
	return errors.Join(err, unmountExt4(g.backing(s)))
}

func (g *gocryptfs) settle(s *system) error {
	if err := fsync(s.dir); err != nil {
		return err
	}
	return syncfs(g.backing(s))
}
