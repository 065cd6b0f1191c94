package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// program runs a command in a directory of the volume and returns its output. When ctx ends, the
// command and all processes that it has started end, too.
func program(ctx context.Context, dir string, env []string, stdin string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = graceTime
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w\n%s", filepath.Base(name), err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.String(), nil
}

// The program that is compiled in the volume.
const (
	helloGo = `package main

import (
	"crypto/sha256"
	"fmt"
	"os"
)

func main() {
	b, err := os.ReadFile(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("hello from a sealed volume: %x\n", sha256.Sum256(b))
}
`
	helloQuick = `package main

import "syscall"

func main() {
	syscall.Write(1, []byte("hello from a sealed volume\n"))
}
`
	helloMod = "module example.org/hello\n\ngo 1.24\n"
)

// compileStep builds a program in the volume, with all packages from source, and runs it there.
func (d *demo) compileStep(ctx context.Context) error {
	return d.do(ctx, "compile", "compiling a Go program in the volume, with its build cache there, and running it", 0, func(s *step) error {
		dir := filepath.Join(d.target(), workName, "hello")
		env := []string{"GOFLAGS=-mod=mod", "GOPROXY=off", "GOTOOLCHAIN=local", "GOENV=off", "GOWORK=off", "CGO_ENABLED=0", "PWD=" + dir}
		for k, sub := range map[string]string{"GOCACHE": "cache", "GOPATH": "gopath", "HOME": "home", "TMPDIR": "tmp"} {
			p := filepath.Join(dir, sub)
			if err := os.MkdirAll(p, 0o755); err != nil {
				return err
			}
			env = append(env, k+"="+p)
		}
		source, arg, want := helloQuick, "", "hello from a sealed volume\n"
		if !d.opt.quick {
			file, e := d.files.anyFile()
			source, arg, want = helloGo, filepath.Join(d.target(), file), fmt.Sprintf("hello from a sealed volume: %x\n", e.sum)
		}
		for name, text := range map[string]string{"main.go": source, "go.mod": helloMod} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				return err
			}
		}
		if _, err := program(ctx, dir, env, "", "go", "build", "-o", "hello", "."); err != nil {
			return err
		}
		out, err := program(ctx, dir, env, "", filepath.Join(dir, "hello"), arg)
		if err != nil {
			return err
		}
		if out != want {
			return fmt.Errorf("the program printed %q instead of %q", out, want)
		}
		if err := d.enterWork(ctx, "hello", s); err != nil {
			return err
		}
		s.result = fmt.Sprintf("it compiles and runs; %d files created", s.files)
		return nil
	})
}

// enterWork adds the files of a program to the manifest, and syncs.
func (d *demo) enterWork(ctx context.Context, name string, s *step) error {
	files, size := d.files.count()
	if err := d.files.enterTree(ctx, d.target(), filepath.Join(workName, name), s.add); err != nil {
		return err
	}
	filesNow, sizeNow := d.files.count()
	s.files, s.sizeBytes = filesNow-files, sizeNow-size
	return syncVolume(d.target())
}

// sqliteStep uses the database of a shop: many small durable transactions, then queries and a
// rebuild.
func (d *demo) sqliteStep(ctx context.Context) error {
	transactions, rows := 100, 250
	if d.opt.quick {
		transactions = 20
	}
	what := fmt.Sprintf("SQLite: %d transactions of %d rows, each synced (WAL, synchronous=FULL)", transactions, rows)
	return d.do(ctx, "sqlite", what, 0, func(s *step) error {
		dir := filepath.Join(d.target(), workName, "sqlite")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := d.files.enter(ctx, d.target(), workName, s.add); err != nil {
			return err
		}
		db := filepath.Join(dir, "shop-of-secrets.db")
		out, err := program(ctx, dir, nil, shop(transactions, rows), "sqlite3", "-bail", "-batch", db)
		if err != nil {
			return err
		}
		n := transactions * rows
		// Of the numbers 1…n, every fifth was deleted. The price of every third was increased by
		// one before.
		count, sum := n-n/5, 0
		for i := 1; i <= n; i++ {
			if i%5 != 0 {
				sum += i%1000 + boolInt(i%3 == 0)
			}
		}
		want := fmt.Sprintf("wal\n%d|%d\nok\n", count, sum)
		if out != want {
			return fmt.Errorf("SQLite says %q instead of %q", out, want)
		}
		// Another process must find the same.
		out, err = program(ctx, dir, nil, "SELECT count(*), sum(price) FROM orders; PRAGMA integrity_check; VACUUM; PRAGMA wal_checkpoint(TRUNCATE);",
			"sqlite3", "-bail", "-batch", db)
		if want := fmt.Sprintf("%d|%d\nok\n0|0|0\n", count, sum); err != nil || out != want {
			return errors.Join(fmt.Errorf("SQLite says %q instead of %q", out, want), err)
		}
		if err := d.enterWork(ctx, "sqlite", s); err != nil {
			return err
		}
		s.result = fmt.Sprintf("%d rows, integrity ok", count)
		return nil
	})
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// shop returns the SQL of the workload.
func shop(transactions, rows int) string {
	var b strings.Builder
	b.WriteString("PRAGMA journal_mode=WAL;\nPRAGMA synchronous=FULL;\n" +
		"CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT NOT NULL, price INTEGER NOT NULL, note TEXT);\n" +
		"CREATE INDEX by_customer ON orders (customer);\n")
	for t := range transactions {
		fmt.Fprintf(&b, "BEGIN;\nWITH RECURSIVE n(i) AS (SELECT %d UNION ALL SELECT i+1 FROM n WHERE i < %d)\n"+
			"INSERT INTO orders SELECT i, 'confidential customer ' || (i %% 977), i %% 1000, printf('%%0100d', i) FROM n;\nCOMMIT;\n", t*rows+1, (t+1)*rows)
	}
	b.WriteString("UPDATE orders SET price = price + 1 WHERE id % 3 = 0;\nDELETE FROM orders WHERE id % 5 = 0;\n" +
		"SELECT count(*), sum(price) FROM orders;\nPRAGMA integrity_check;\n")
	return b.String()
}

const journalName = "journal-of-the-crash"

// journal appends numbered lines to a file, and syncs each, until it is stopped or an error occurs.
type journal struct {
	f    *os.File
	quit chan struct{}
	once sync.Once
	done chan struct{}

	mu     sync.Mutex
	synced int           // lines whose fsync has returned; guarded by mu
	more   chan struct{} // closed and replaced when synced grows; guarded by mu
}

func journalLine(i int) string { return fmt.Sprintf("line %08d was acknowledged\n", i) }

func startJournal(root string) (*journal, error) {
	f, err := os.OpenFile(filepath.Join(root, journalName), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	j := &journal{f: f, quit: make(chan struct{}), done: make(chan struct{}), more: make(chan struct{})}
	go j.run()
	return j, nil
}

func (j *journal) run() {
	defer close(j.done)
	for i := 0; ; i++ {
		select {
		case <-j.quit:
			return
		default:
		}
		if _, err := j.f.WriteString(journalLine(i)); err != nil {
			return // the server is dead
		}
		if err := j.f.Sync(); err != nil {
			return
		}
		j.mu.Lock()
		j.synced = i + 1
		close(j.more)
		j.more = make(chan struct{})
		j.mu.Unlock()
	}
}

// await waits until n lines are synced.
func (j *journal) await(ctx context.Context, lines int) error {
	for {
		j.mu.Lock()
		synced, more := j.synced, j.more
		j.mu.Unlock()
		if synced >= lines {
			return nil
		}
		select {
		case <-more:
		case <-j.done:
			return errors.New("cannot write the journal")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stop ends the writing, and returns the number of synced lines.
func (j *journal) stop() int {
	j.once.Do(func() { close(j.quit) })
	<-j.done
	j.f.Close()
	return j.synced
}

// check verifies that the file contains all synced lines, and after them only lines that were
// written.
func (j *journal) check(root string, synced int) error {
	f, err := os.Open(filepath.Join(root, journalName))
	if err != nil {
		return fmt.Errorf("a synced file is lost: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		line := []byte(journalLine(i))
		switch {
		case bytes.HasPrefix(b, line):
			b = b[len(line):]
		case i < synced:
			return fmt.Errorf("only %[2]d of %[1]d synced lines are present", synced, i)
		case i == synced && bytes.HasPrefix(line, b), i == synced+1 && len(b) == 0:
			return nil // the line that was being written may be present, incomplete or missing
		default:
			return fmt.Errorf("the journal ends with %q, which was never written", b[:min(len(b), 64)])
		}
	}
}

// awaitEnd waits for the end of a process, which may be no child of this one.
func awaitEnd(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(fd)
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll: %w", err)
		}
	}
	return ctx.Err()
}

// awaitNoChildren waits until all processes that this one adopted (the mounter and its servers)
// have ended.
func awaitNoChildren(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		list := children()
		if len(list) == 0 {
			return nil
		}
		for _, pid := range list {
			unix.Wait4(pid, nil, unix.WNOHANG, nil) //nolint:errcheck // the next round checks
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("these processes did not end: %v", list)
		}
	}
}
