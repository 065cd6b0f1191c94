package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

// snapBench compares stored snapshots with other programs that make encrypted backups. Each job runs
// with one program after the other before the next job.
type snapBench struct {
	bench    // work, results, notes and cleanup
	json     string
	tools    []tool
	sets     []*set
	requests map[string]map[string]int64 // job → ours, by kind
	load     []loadRound
	only     *regexp.Regexp
}

// runSnapshots is `bench snapshots`.
func runSnapshots(args []string) (err error) {
	b := &snapBench{bench: bench{config: &config{}, results: results{}}, requests: map[string]map[string]int64{}}
	f := flag.NewFlagSet("snapshots", flag.ContinueOnError)
	f.IntVar(&b.reps, "n", 3, "rounds")
	f.BoolVar(&b.short, "short", false, "run one small round, to check that the benchmark works")
	f.StringVar(&b.dir, "dir", "", "directory for trees, volumes and stores, about 10 GiB (default: a new one in the temporary directory)")
	only := f.String("run", "", "run only what matches this regular expression: random, source, small, load")
	f.StringVar(&b.json, "json", "", "also write all values to this file")
	f.StringVar(&b.sealvol, "sealvol", "", "sealvol command (default: the one in the directory of this program)")
	f.DurationVar(&b.deadline, "deadline", 5*time.Minute, "deadline of each command")
	if err := f.Parse(args); err != nil {
		return err
	}
	if b.short {
		b.reps = 1
	}
	if b.only, err = regexp.Compile(*only); err != nil {
		return err
	}
	if err := b.check(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if b.work, err = os.MkdirTemp(b.dir, "sealvol-bench-"); err != nil {
		return err
	}
	b.onEnd(func() error { return os.RemoveAll(b.work) })
	return errors.Join(b.run(ctx), b.end())
}

// check looks for everything that the benchmark needs.
func (b *snapBench) check() error {
	if os.Geteuid() != 0 {
		return errors.New("mounts need root")
	}
	for _, name := range []string{"restic", "borg"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%s is missing: run `.ci/setup bench`", name)
		}
	}
	exe, err := self()
	if err != nil {
		return err
	}
	if b.sealvol == "" {
		b.sealvol = filepath.Join(filepath.Dir(exe), "sealvol")
	}
	if !fileExists(b.sealvol) {
		return fmt.Errorf("%s is missing: run `make build`", b.sealvol)
	}
	b.tools = []tool{&oursTool{b: b}, &resticTool{b: b}, &borgTool{b: b}}
	return nil
}

func (b *snapBench) run(ctx context.Context) error {
	if err := b.prepare(ctx); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	defer func() {
		if len(b.results)+len(b.load) > 0 {
			fmt.Print(b.table())
		}
	}()
	for rep := range b.reps {
		for _, s := range b.sets {
			if !b.only.MatchString(s.name) {
				continue
			}
			if err := b.round(ctx, s, rep); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
		if b.only.MatchString("load") {
			if err := b.underLoad(ctx, rep); err != nil {
				return fmt.Errorf("load: %w", err)
			}
		}
		progress("round %d of %d done", rep+1, b.reps)
	}
	return b.writeJSON()
}

// prepare makes the trees and the volumes.
func (b *snapBench) prepare(ctx context.Context) error {
	for _, k := range []string{b.key(), b.tenant()} {
		if _, err := command(ctx, b.sealvol, "key", "generate", k); err != nil {
			return err
		}
	}
	for _, s := range []*set{{name: "random", make: makeRandom}, {name: "source", make: makeSource}, {name: "small", make: makeSmall}} {
		if s.name != "random" && !b.only.MatchString(s.name) {
			continue
		}
		s.tree, s.image, s.mnt = filepath.Join(b.work, "tree-"+s.name), filepath.Join(b.work, s.name+".img"), filepath.Join(b.work, "mnt-"+s.name)
		if err := errors.Join(os.Mkdir(s.tree, 0o755), os.Mkdir(s.mnt, 0o755)); err != nil {
			return err
		}
		if err := s.make(ctx, b, s.tree); err != nil {
			return err
		}
		if _, err := command(ctx, b.sealvol, "mkfs", "--key-file", b.key(), "--size", "3GiB", s.image); err != nil {
			return err
		}
		err := b.mounted(ctx, s, func() error {
			_, err := command(ctx, "cp", "-a", s.tree+"/.", s.mnt)
			return err
		})
		if err != nil {
			return err
		}
		b.sets = append(b.sets, s)
		progress("%s: tree and volume are there", s.name)
	}
	return nil
}

func (b *snapBench) key() string { return filepath.Join(b.work, "key") }

func (b *snapBench) tenant() string { return filepath.Join(b.work, "tenant") }

// mounted calls fn while the volume of a set is mounted.
func (b *snapBench) mounted(ctx context.Context, s *set, fn func() error) error {
	if _, err := command(ctx, b.sealvol, "mount", "--key-file", b.key(), s.image, s.mnt); err != nil {
		return err
	}
	err := fn()
	_, uerr := command(context.Background(), b.sealvol, "umount", s.mnt)
	return errors.Join(err, uerr)
}

// round runs all jobs of a set with new stores.
func (b *snapBench) round(ctx context.Context, s *set, rep int) error {
	defer func() {
		for _, t := range b.tools {
			_ = os.RemoveAll(b.store(t)) // the end of the benchmark removes it, too
		}
	}()
	for _, t := range b.tools {
		if err := t.init(ctx, s); err != nil {
			return fmt.Errorf("%s: new store: %w", t.name(), err)
		}
	}
	steps := []struct {
		job    string
		before func() error
		run    func(t tool) (*usage, error)
	}{
		{job: "first", run: func(t tool) (*usage, error) { return t.snapshot(ctx, s) }},
		{job: "verify", run: func(t tool) (*usage, error) { return t.verify(ctx) }},
		{job: "restore", run: func(t tool) (*usage, error) { return t.restore(ctx, s) }},
		{job: "second", before: func() error { return b.change(ctx, s, rep) }, run: func(t tool) (*usage, error) { return t.snapshot(ctx, s) }},
	}
	for _, step := range steps {
		if step.before != nil {
			if err := step.before(); err != nil {
				return err
			}
		}
		for i := range b.tools {
			t := b.tools[(i+rep)%len(b.tools)] // rotate, so that no program is always first
			if err := b.measure(t, s, step.job, rep, step.run); err != nil {
				return fmt.Errorf("%s: %s: %w", step.job, t.name(), err)
			}
		}
	}
	return nil
}

// measure runs one job, with cold caches.
func (b *snapBench) measure(t tool, s *set, job string, rep int, run func(t tool) (*usage, error)) error {
	before, err := sizeOf(b.store(t))
	if err != nil {
		return err
	}
	if err := dropCaches(); err != nil {
		return err
	}
	if err := t.start(); err != nil {
		return err
	}
	u, err := run(t)
	if err != nil {
		return err
	}
	after, err := sizeOf(b.store(t))
	if err != nil {
		return err
	}
	row := s.name + " " + job
	b.results.add(t.name(), rep, map[string]float64{row + "/s": u.seconds, row + "/CPU s": u.cpu, row + "/RSS MiB": u.rssMiB,
		row + "/read MiB": u.readMiB, row + "/stored MiB": float64(after-before) / (1 << 20)})
	if u.requests != nil {
		b.requests[row] = u.requests
	}
	progress("%d/%d %-7s %-8s %-6s %6.1fs, CPU %.1fs, %.0f MiB resident, %.0f MiB read, %.1f MiB stored", rep+1, b.reps, s.name, job, t.name(),
		u.seconds, u.cpu, u.rssMiB, u.readMiB, float64(after-before)/(1<<20))
	return nil
}

// store is where a program stores.
func (b *snapBench) store(t tool) string { return filepath.Join(b.work, "store-"+t.name()) }
