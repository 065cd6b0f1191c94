package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// tool is a program that makes encrypted backups. Its store is a new directory.
type tool interface {
	name() string
	// start loads the program into the page cache.
	start() error
	init(ctx context.Context, s *set) error
	snapshot(ctx context.Context, s *set) (*usage, error)
	verify(ctx context.Context) (*usage, error)
	restore(ctx context.Context, s *set) (*usage, error)
}

// usage is what a command took.
type usage struct {
	seconds, cpu, rssMiB, readMiB float64
	out                           []byte
	requests                      map[string]int64 // ours
}

// add adds a command that ran afterwards.
func (u *usage) add(o *usage) {
	u.seconds, u.cpu, u.readMiB, u.rssMiB = u.seconds+o.seconds, u.cpu+o.cpu, u.readMiB+o.readMiB, max(u.rssMiB, o.rssMiB)
}

// timed runs a command and measures it.
func (b *snapBench) timed(ctx context.Context, dir string, env []string, name string, args ...string) (*usage, error) {
	ctx, cancel := context.WithTimeout(ctx, b.deadline)
	defer cancel()
	c := exec.CommandContext(ctx, name, args...)
	c.Dir, c.Env = dir, append(os.Environ(), env...)
	var out, stderr bytes.Buffer
	c.Stdout, c.Stderr = &out, &stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	start := time.Now()
	if err := c.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
	}
	u := &usage{seconds: time.Since(start).Seconds(), cpu: (c.ProcessState.UserTime() + c.ProcessState.SystemTime()).Seconds(), out: out.Bytes()}
	if r, ok := c.ProcessState.SysUsage().(*syscall.Rusage); ok {
		u.rssMiB, u.readMiB = float64(r.Maxrss)/1024, float64(r.Inblock)/2048
	}
	return u, nil
}

// oursTool snapshots the volume, which is not mounted. It reads the image.
type oursTool struct {
	b   *snapBench
	dir string // of the store; empty: below the benchmark's directory
}

func (o *oursTool) store() string {
	if o.dir != "" {
		return o.dir
	}
	return o.b.store(o)
}

func (*oursTool) name() string { return "ours" }

func (o *oursTool) start() error {
	_, err := command(context.Background(), o.b.sealvol, "--version")
	return err
}

func (o *oursTool) flags() []string {
	return []string{"--store", "file://" + o.store(), "--tenant-file", o.b.tenant(), "--key-file", o.b.key(), "--json"}
}

func (o *oursTool) init(ctx context.Context, _ *set) error {
	_, err := command(ctx, o.b.sealvol, "snapshot", "init", "--store", "file://"+o.store())
	return err
}

func (o *oursTool) snapshot(ctx context.Context, s *set) (*usage, error) {
	return o.create(ctx, s.image)
}

// create snapshots a device or a mounted directory.
func (o *oursTool) create(ctx context.Context, target string) (*usage, error) {
	return o.report(o.b.timed(ctx, "", nil, o.b.sealvol, append(append([]string{"snapshot", "create"}, o.flags()...), target)...))
}

func (o *oursTool) verify(ctx context.Context) (*usage, error) {
	return o.report(o.b.timed(ctx, "", nil, o.b.sealvol, append(append([]string{"snapshot", "verify", "--level", "data"}, o.flags()...), "latest")...))
}

// report reads the requests from the last object that the command printed.
func (o *oursTool) report(u *usage, err error) (*usage, error) {
	if err != nil {
		return nil, err
	}
	var r struct {
		Requests map[string]int64 `json:"requests"`
	}
	for in := json.NewDecoder(bytes.NewReader(u.out)); err == nil; {
		err = in.Decode(&r)
	}
	if !errors.Is(err, io.EOF) || r.Requests == nil {
		return nil, fmt.Errorf("the report is %q", u.out)
	}
	u.requests = r.Requests
	return u, nil
}

// restore restores to a new image.
func (o *oursTool) restore(ctx context.Context, s *set) (*usage, error) {
	image := filepath.Join(o.b.work, "restored.img")
	f, err := os.Create(image)
	if err != nil {
		return nil, err
	}
	defer os.Remove(image) //nolint:errcheck // below the benchmark's directory, which is removed
	defer f.Close()
	if err := f.Truncate(imageBytes); err != nil {
		return nil, err
	}
	u, err := o.b.timed(ctx, "", nil, o.b.sealvol, append(append([]string{"snapshot", "restore", "--force"}, o.flags()...), "latest", image)...)
	if err != nil {
		return nil, err
	}
	return u, o.compare(ctx, s, image)
}

// compare compares a restored volume with the tree. That is not measured.
func (o *oursTool) compare(ctx context.Context, s *set, image string) error {
	restored := &set{image: image, mnt: s.mnt}
	return o.b.mounted(ctx, restored, func() error {
		_, err := command(ctx, "diff", "--recursive", "--brief", "--no-dereference", s.tree, s.mnt)
		return err
	})
}

// resticTool backs up the tree.
type resticTool struct{ b *snapBench }

func (*resticTool) name() string { return "restic" }

func (*resticTool) start() error {
	_, err := command(context.Background(), "restic", "version")
	return err
}

func (r *resticTool) run(ctx context.Context, args ...string) (*usage, error) {
	cache := filepath.Join(r.b.store(r)+"-cache", "cache")
	return r.b.timed(ctx, "", []string{"RESTIC_PASSWORD=benchmark"}, "restic", append([]string{"--quiet", "--cache-dir", cache, "--repo", r.b.store(r)}, args...)...)
}

func (r *resticTool) init(ctx context.Context, _ *set) error {
	err := os.RemoveAll(r.b.store(r) + "-cache")
	if err == nil {
		_, err = r.run(ctx, "init")
	}
	return err
}

func (r *resticTool) snapshot(ctx context.Context, s *set) (*usage, error) {
	return r.run(ctx, "backup", s.tree)
}

func (r *resticTool) verify(ctx context.Context) (*usage, error) {
	return r.run(ctx, "check", "--read-data")
}

func (r *resticTool) restore(ctx context.Context, _ *set) (*usage, error) {
	to := filepath.Join(r.b.work, "restored")
	defer os.RemoveAll(to) //nolint:errcheck // below the benchmark's directory, which is removed
	u, err := r.run(ctx, "restore", "latest", "--target", to)
	return r.b.synced(u, err)
}

// synced adds the time until what was restored is durable, as our restore makes it.
func (b *snapBench) synced(u *usage, err error) (*usage, error) {
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := syncfs(b.work); err != nil {
		return nil, err
	}
	u.add(&usage{seconds: time.Since(start).Seconds()})
	return u, nil
}

// borgTool backs up the tree. A second backup uses its cache of files.
type borgTool struct {
	b *snapBench
	n int
}

func (*borgTool) name() string { return "borg" }

func (*borgTool) start() error {
	_, err := command(context.Background(), "borg", "--version")
	return err
}

func (o *borgTool) run(ctx context.Context, dir string, args ...string) (*usage, error) {
	return o.b.timed(ctx, dir, []string{"BORG_PASSPHRASE=benchmark", "BORG_BASE_DIR=" + o.b.store(o) + "-base", "BORG_RELOCATED_REPO_ACCESS_IS_OK=yes",
		"BORG_REPO=" + o.b.store(o)}, "borg", args...)
}

func (o *borgTool) init(ctx context.Context, _ *set) error {
	err := os.RemoveAll(o.b.store(o) + "-base")
	if err == nil {
		_, err = o.run(ctx, "", "init", "--encryption", "repokey")
	}
	return err
}

func (o *borgTool) archive() string { return fmt.Sprint("::a", o.n) }

func (o *borgTool) snapshot(ctx context.Context, s *set) (*usage, error) {
	o.n++
	return o.run(ctx, "", "create", o.archive(), s.tree)
}

func (o *borgTool) verify(ctx context.Context) (*usage, error) {
	return o.run(ctx, "", "check", "--verify-data")
}

func (o *borgTool) restore(ctx context.Context, _ *set) (*usage, error) {
	to := filepath.Join(o.b.work, "restored")
	if err := os.Mkdir(to, 0o755); err != nil {
		return nil, err
	}
	defer os.RemoveAll(to) //nolint:errcheck // below the benchmark's directory, which is removed
	u, err := o.run(ctx, to, "extract", o.archive())
	return o.b.synced(u, err)
}
