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
	tree    string // "": Go's own source
	temp    string
	quick   bool
	skip    string // "sqlite", "compile", both with a comma, or nothing
	timeout time.Duration
}

const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130

	// graceTime is what a step that was interrupted gets to end by itself.
	graceTime = 2 * time.Second
)

var errInterrupted = errors.New("interrupted")

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// The kernel hands a signal to the first thread if that can take it, and a thread that waits for a FUSE server which does not answer takes it but never comes to
// handle it: nobody hears of it. So the first thread is kept for the function below, which waits for nobody but the steps. (Only init can do so.)
func init() { runtime.LockOSThread() }

// run is main without the exit.
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
	// Nobody listens to this one: it only makes writing to a pipe without a reader an error, as it is for all other files.
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
	f.StringVar(&o.driver, "driver", "", "the driver's program (default: driver, beside this program)")
	f.StringVar(&o.tree, "tree", "", "directory to copy into the volume (default: Go's own source)")
	f.StringVar(&o.temp, "dir", os.TempDir(), "where the temporary directory is made; it needs some 3 GiB free")
	f.BoolVar(&o.quick, "quick", false, "a small part of Go's source, a smaller program and a smaller database")
	f.StringVar(&o.skip, "skip", "", "leave out sqlite, compile, or both (sqlite,compile)")
	f.DurationVar(&o.timeout, "timeout", 10*time.Minute, "give up after this long")
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
			return fmt.Errorf("-skip: %q cannot be left out", s)
		}
	}
	return nil
}

func (o options) skips(step string) bool { return slices.Contains(strings.Split(o.skip, ","), step) }

// complete fills in what was not given.
func (o *options) complete() error {
	if o.driver == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		o.driver = filepath.Join(filepath.Dir(self), "driver")
	}
	if _, err := exec.LookPath(o.driver); err != nil {
		return fmt.Errorf("the driver is missing (make build builds it): %w", err)
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

// run runs the demo and cleans up, whatever happens: at the first signal in order, at the second at once.
func (o options) run(signals <-chan os.Signal, stdout *os.File, stderr io.Writer) (err error) {
	if err := o.complete(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.temp, "sealvol-demo-")
	if err != nil {
		return err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil { // as the mount table will name it
		return err
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), o.timeout, fmt.Errorf("not done within %v", o.timeout))
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

// wait waits for the steps' end, when interrupted not for long.
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

// obey waits for signals. The second one does not wait for anything in the demo.
func obey(signals <-chan os.Signal, finished <-chan struct{}, interrupt context.CancelCauseFunc, clean func() error, stderr io.Writer) {
	select {
	case s := <-signals:
		interrupt(fmt.Errorf("%w (%v); everything is taken away again", errInterrupted, s))
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
