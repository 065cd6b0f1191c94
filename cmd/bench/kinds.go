package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sealvol/sealvol/pkg/volume/fusefs"
)

// kind formats, mounts and unmounts a file system.
type kind interface {
	format(ctx context.Context, s *system) error
	mount(ctx context.Context, s *system) error
	unmount(s *system) error
	// settle writes back all data, so that it does not affect the next job.
	settle(s *system) error
}

// ours is a Sealvol volume.
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
	stop := context.AfterFunc(ctx, func() { _ = p.cmd.Process.Kill() }) // this also ends the wait
	defer stop()
	line, err := p.out.ReadString('\n')
	if err != nil || line != "ready\n" {
		return fmt.Errorf("the server did not start: it printed %q; %w", line, err)
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

// ram is fusefs over a file system in memory. It is the upper limit for our server.
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

func (ram) settle(*system) error { return nil }
