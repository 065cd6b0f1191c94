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
	"strings"
	"syscall"
	"time"
)

// config contains the values of the flags.
type config struct {
	reps     int
	short    bool
	gp3      bool
	fs       string
	jobs     *regexp.Regexp
	sealvol  string // path of the command; "" if this program is the server
	profile  string // directory, or ""
	dir      string
	deadline time.Duration
	suite    string
}

// modes are what this program does besides comparing file systems.
var modes = map[string]func(args []string) error{"serve": serve, "snapshots": runSnapshots}

func main() {
	if len(os.Args) > 1 {
		if other := modes[os.Args[1]]; other != nil {
			if err := other(os.Args[2:]); err != nil {
				fmt.Fprintf(os.Stderr, "bench %s: %v\n", os.Args[1], err)
				os.Exit(1)
			}
			return
		}
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func flags() (*config, error) {
	c := &config{}
	flag.IntVar(&c.reps, "n", 3, "repetitions")
	flag.BoolVar(&c.short, "short", false, "run one small repetition, to check that the benchmark works")
	flag.BoolVar(&c.gp3, "gp3", false, "throttle the devices like an EBS gp3 volume: 3,000 I/Os of up to 256 KiB per second and 125 MiB/s, for reads and writes each")
	flag.StringVar(&c.fs, "fs", "ours,gocryptfs,ext4,ram", "file systems to measure")
	jobs := flag.String("run", "", "run only jobs whose name matches this regular expression")
	flag.StringVar(&c.sealvol, "sealvol", "", "sealvol command that formats and serves our volume (default: the one in the directory of this program; if it is missing, or with -profile, this program is the server)")
	flag.StringVar(&c.profile, "profile", "", "write profiles of our server to this directory, one per job")
	flag.StringVar(&c.dir, "dir", "", "directory for the images, about 3 GiB for each file system (default: a new one in the temporary directory)")
	flag.DurationVar(&c.deadline, "deadline", 3*time.Minute, "deadline of each job; after it, the connection is aborted")
	flag.StringVar(&c.suite, "suite", "", "cipher suite of our volume (default: that of mkfs)")
	flag.Parse()
	if flag.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if c.profile != "" && c.sealvol != "" {
		return nil, errors.New("-profile requires this program as the server: remove -sealvol")
	}
	if exe, err := os.Executable(); err == nil && c.sealvol == "" && c.profile == "" {
		if beside := filepath.Join(filepath.Dir(exe), "sealvol"); fileExists(beside) {
			c.sealvol = beside
		}
	}
	if c.profile != "" {
		if err := os.MkdirAll(c.profile, 0o755); err != nil {
			return nil, err
		}
	}
	if c.short {
		c.reps = 1
	}
	if c.reps < 1 {
		return nil, errors.New("-n must be at least 1")
	}
	var err error
	c.jobs, err = regexp.Compile(*jobs)
	return c, err
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func run() error {
	c, err := flags()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("mounts and loop devices need root")
	}
	for _, tool := range []string{"losetup", "mkfs.ext4", "tar", "sqlite3"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is missing: run `make setup`", tool)
		}
	}
	if strings.Contains(c.fs, "gocryptfs") {
		if _, err := exec.LookPath("gocryptfs"); err != nil {
			return errors.New("gocryptfs is missing: run `.ci/setup bench`")
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	work, err := os.MkdirTemp(c.dir, "sealvol-bench-")
	if err != nil {
		return err
	}
	if c.sealvol == "" {
		progress("our volume is served by this program")
	} else {
		progress("our volume is served by %s", c.sealvol)
	}
	b := &bench{config: c, work: work, results: results{}}
	b.onEnd(func() error { return os.RemoveAll(work) })
	err = b.run(ctx)
	return errors.Join(err, b.end())
}

// bench is one run.
type bench struct {
	*config
	work    string
	systems []*system
	tree    sourceTree
	results results
	notes   []string
	cleanup []func() error
}

// onEnd registers a cleanup function. The last one runs first.
func (b *bench) onEnd(fn func() error) { b.cleanup = append(b.cleanup, fn) }

func (b *bench) end() error {
	var errs []error
	for len(b.cleanup) > 0 {
		fn := b.cleanup[len(b.cleanup)-1]
		b.cleanup = b.cleanup[:len(b.cleanup)-1]
		errs = append(errs, fn())
	}
	return errors.Join(errs...)
}

func (b *bench) run(ctx context.Context) error {
	if err := os.Chmod(b.work, 0o755); err != nil { // the database server is another user
		return err
	}
	if err := b.tree.make(ctx, b.work, b.short); err != nil {
		return err
	}
	for _, name := range strings.Split(b.fs, ",") {
		s, err := newSystem(ctx, b, name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		b.systems = append(b.systems, s)
	}
	defer func() {
		if len(b.results) > 0 {
			fmt.Print(b.report()) // print the available results after a failure
		}
	}()
	for rep := range b.reps {
		if err := b.repetition(ctx, rep); err != nil {
			return err
		}
		if b.reps > 1 && rep < b.reps-1 {
			progress("repetition %d of %d done", rep+1, b.reps)
		}
	}
	return nil
}

// repetition formats all file systems again, and runs each job on all of them before the next job.
func (b *bench) repetition(ctx context.Context, rep int) (err error) {
	defer func() {
		for _, s := range b.systems {
			err = errors.Join(err, s.unmount())
		}
	}()
	for _, s := range b.systems {
		if err := b.begin(ctx, s); err != nil {
			return err
		}
	}
	for _, j := range jobs {
		if !b.jobs.MatchString(j.name) {
			continue
		}
		if j.missing != nil {
			if why := j.missing(); why != "" {
				b.note("%s: skipped, %s", j.name, why)
				continue
			}
		}
		for i := range b.systems {
			s := b.systems[(i+rep)%len(b.systems)] // rotate, so that no file system is always first
			if err := b.job(ctx, s, &j, rep); err != nil {
				return fmt.Errorf("%s on %s: %w", j.name, s.name, err)
			}
		}
	}
	return nil
}

// begin formats and mounts the file systems.
func (b *bench) begin(ctx context.Context, s *system) error {
	ctx, cancel := context.WithTimeout(ctx, b.deadline)
	defer cancel()
	if err := s.format(ctx); err != nil {
		return fmt.Errorf("%s: format: %w", s.name, err)
	}
	if err := s.mount(ctx); err != nil {
		return fmt.Errorf("%s: mount: %w", s.name, err)
	}
	return nil
}

// job runs one job on one file system, with a deadline.
func (b *bench) job(ctx context.Context, s *system, j *job, rep int) error {
	ctx, cancel := context.WithTimeout(ctx, b.deadline)
	defer cancel()
	// Calls that wait for the server get an error when the connection is aborted.
	stop := context.AfterFunc(ctx, s.abort)
	defer stop()
	e := &env{ctx: ctx, sys: s, bench: b, dir: s.dir, seed: uint64(rep + 1), results: map[string]float64{}}
	e.size = fullSizes
	if b.gp3 {
		e.size = gp3Sizes
	}
	if b.short {
		e.size = shortSizes
	}
	start := time.Now()
	err := b.measure(e, j, rep, &start)
	if err != nil && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		err = fmt.Errorf("not finished within %v and aborted (%w)", b.deadline, err)
	}
	if err != nil {
		return err
	}
	progress("%d/%d %-9s %-10s %6.1fs  %s", rep+1, b.reps, s.name, j.name, time.Since(start).Seconds(), e.show())
	b.results.add(s.name, rep, e.results)
	return s.settle() // it must not affect the next file system
}

// measure prepares and runs a job. start is the time when the job began.
func (b *bench) measure(e *env, j *job, rep int, start *time.Time) error {
	s := e.sys
	if j.prepare != nil {
		if err := j.prepare(e); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
	}
	if err := s.settle(); err != nil {
		return err
	}
	if b.profile != "" {
		s.profile(filepath.Join(b.profile, fmt.Sprintf("%s-%d-%s", s.name, rep, j.name)))
		defer s.profile("")
	}
	*start = time.Now()
	if err := j.run(e); err != nil {
		return err
	}
	return e.ctx.Err()
}

func (b *bench) note(format string, a ...any) {
	n := fmt.Sprintf(format, a...)
	for _, old := range b.notes {
		if old == n {
			return
		}
	}
	b.notes = append(b.notes, n)
}

func progress(format string, a ...any) {
	fmt.Fprintf(os.Stderr, time.Now().UTC().Format("15:04:05 ")+format+"\n", a...)
}
