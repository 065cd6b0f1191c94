package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

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

// unmountExt4 retries for a short time until a server has closed its files.
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

func (ext4) mount(_ context.Context, s *system) error { return mountExt4(s.dev, s.dir) }

func (ext4) unmount(s *system) error { return unmountExt4(s.dir) }

func (ext4) settle(s *system) error { return syncfs(s.dir) }

// gocryptfs is mounted on top of ext4.
type gocryptfs struct{ below bool }

func (g *gocryptfs) backing(s *system) string { return filepath.Join(s.work, "ext4") }

func (g *gocryptfs) cipher(s *system) string { return filepath.Join(g.backing(s), "cipher") }

func (g *gocryptfs) pass(s *system) string { return filepath.Join(s.work, "pass") }

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
