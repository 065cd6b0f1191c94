package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"
)

// options are the demo's flags.
type options struct {
	driver  string
	sealvol string
	tree    string // "" means the source of Go
	temp    string
	quick   bool
	skip    string // "sqlite", "compile", both separated by a comma, or ""
	timeout time.Duration
}

const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130

	// graceTime is the time for an interrupted step to end by itself.
	graceTime = 2 * time.Second
)

var errInterrupted = errors.New("interrupted")

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// The kernel prefers the first thread for signals. If that thread waits for a FUSE server that does
// not answer, it receives the signal but never handles it, and the signal is lost. So the first
// thread is reserved for the function below, which waits only for the steps. Only init can reserve
// it.
func init() { runtime.LockOSThread() }

// run is main without os.Exit.
func run(args []string, stdout *os.File, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return exitUsage
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	// This signal is ignored. Registering for it makes a write to a pipe without a reader fail with
	// an error, like for other files.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	err = errors.Join(checkMachine("go", "sqlite3"), adoptOrphans())
	if err == nil {
		err = becomeMounter()
	}
	if err == nil {
		err = o.run(signals, stdout, stderr)
	}
	switch {
	case errors.Is(err, errInterrupted):
		printTo(stderr, "demo: %v\n", err)
		return exitInterrupted
	case err != nil:
		printTo(stderr, "demo: %v\n", err)
		return exitFailed
	}
	return 0
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("demo", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.driver, "driver", "", "program of the driver (default: driver, in the directory of this program)")
	f.StringVar(&o.tree, "tree", "", "directory to copy into the volume (default: the source of Go)")
	f.StringVar(&o.temp, "dir", os.TempDir(), "parent of the temporary directory; it needs about 3 GiB of free space")
	f.BoolVar(&o.quick, "quick", false, "use a small part of the source of Go, a smaller program and a smaller database")
	f.StringVar(&o.skip, "skip", "", "skip sqlite, compile, or both (sqlite,compile)")
	f.DurationVar(&o.timeout, "timeout", 10*time.Minute, "abort after this time")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	err := o.check(f.Args())
	if err != nil {
		printTo(stderr, "demo: %v\n", err)
	}
	return o, err
}

func (o options) check(args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected argument %q", args[0])
	}
	for _, s := range strings.Split(o.skip, ",") {
		if s != "" && s != "sqlite" && s != "compile" {
			return fmt.Errorf("-skip: %q cannot be skipped; only sqlite and compile can", s)
		}
	}
	return nil
}

func (o options) skips(step string) bool { return slices.Contains(strings.Split(o.skip, ","), step) }

// complete sets the options that were not given.
func (o *options) complete() error {
	if o.driver == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		o.driver = filepath.Join(filepath.Dir(self), "driver")
	}
	if _, err := exec.LookPath(o.driver); err != nil {
		return fmt.Errorf("cannot find the driver (build it with `make build`): %w", err)
	}
	o.sealvol = filepath.Join(filepath.Dir(o.driver), "sealvol")
	if _, err := exec.LookPath(o.sealvol); err != nil {
		return fmt.Errorf("cannot find sealvol beside the driver (build it with `make build`): %w", err)
	}
	if o.tree == "" {
		out, err := exec.Command("go", "env", "GOROOT").Output()
		if err != nil {
			return fmt.Errorf("go env GOROOT: %w", err)
		}
		o.tree = filepath.Join(strings.TrimSpace(string(out)), "src")
		if o.quick {
			o.tree = filepath.Join(o.tree, "encoding")
		}
	}
	var err error
	if o.driver, err = filepath.Abs(o.driver); err != nil {
		return err
	}
	o.tree, err = filepath.EvalSymlinks(o.tree)
	return err
}

// run runs the demo, and always cleans up. At the first signal, it stops orderly; at the second
// one, immediately.
func (o options) run(signals <-chan os.Signal, stdout *os.File, stderr io.Writer) (err error) {
	if err := o.complete(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.temp, "sealvol-demo-")
	if err != nil {
		return err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil { // as it appears in the mount table
		return err
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), o.timeout, fmt.Errorf("not finished within %v", o.timeout))
	defer cancel()
	ctx, interrupt := context.WithCancelCause(ctx)
	defer interrupt(nil)
	t := newTimeline(stdout, interrupt, term.IsTerminal(int(stdout.Fd())) && os.Getenv("TERM") != "dumb" && os.Getenv("CI") == "")
	d := &demo{rig: rig{dir: dir}, opt: o, line: t, files: newManifest()}
	ended, gone, finished := make(chan error, 1), make(chan struct{}), make(chan struct{})
	defer close(finished)
	cleanUp := sync.OnceValue(func() error { return clean(dir, gone) })
	go obey(signals, finished, interrupt, cleanUp, stderr)
	go func() {
		defer close(gone)
		ended <- d.steps(ctx)
	}()
	err = wait(ctx, ended)
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case err != nil:
		d.explain(stderr)
	}
	cleanErr := cleanUp()
	if err == nil && cleanErr == nil {
		t.summary()
	}
	t.close()
	return errors.Join(err, cleanErr)
}

// wait waits for the end of the steps. After an interruption, it waits only for graceTime.
func wait(ctx context.Context, ended <-chan error) error {
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(graceTime):
		return ctx.Err()
	}
}

// obey handles signals. At the second signal, it does not wait for the demo.
func obey(signals <-chan os.Signal, finished <-chan struct{}, interrupt context.CancelCauseFunc, clean func() error, stderr io.Writer) {
	select {
	case s := <-signals:
		interrupt(fmt.Errorf("%w (%v); cleaning up", errInterrupted, s))
	case <-finished:
		return
	}
	select {
	case <-signals:
		if err := clean(); err != nil {
			printTo(stderr, "demo: %v\n", err)
		}
		os.Exit(exitInterrupted)
	case <-finished:
	}
}
