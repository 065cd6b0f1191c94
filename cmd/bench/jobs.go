package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// sizes of the jobs. Those with a time end when it is over.
type sizes struct {
	fileMiB     int           // big file
	reads       int           // random reads, by one thread
	writes      int           // random writes of 4 KiB
	writes64    int           // random writes of 64 KiB
	fsyncFor    time.Duration // jobs that sync after each operation
	files       int           // small files
	transaction int           // SQLite, autocommit
	wal         int           // SQLite, write-ahead log
	rows        int           // SQLite, one transaction
	pgScale     int
	pgFor       time.Duration
}

var (
	fullSizes = sizes{fileMiB: 512, reads: 10_000, writes: 20_000, writes64: 3000, fsyncFor: 2 * time.Second, files: 8000,
		transaction: 1500, wal: 8000, rows: 300_000, pgScale: 3, pgFor: 4 * time.Second}
	// A throttled device is the bottleneck: fewer operations tell as much.
	gp3Sizes = sizes{fileMiB: 384, reads: 6000, writes: 8000, writes64: 1500, fsyncFor: 4 * time.Second, files: 4000,
		transaction: 300, wal: 8000, rows: 300_000, pgScale: 3, pgFor: 6 * time.Second}
	shortSizes = sizes{fileMiB: 64, reads: 1000, writes: 2000, writes64: 300, fsyncFor: 300 * time.Millisecond, files: 500,
		transaction: 100, wal: 500, rows: 20_000, pgScale: 1, pgFor: time.Second}
)

// job is one thing to do on every file system. It may report several rows.
type job struct {
	name    string
	missing func() string    // why it cannot run here, "" if it can
	prepare func(*env) error // not measured
	run     func(*env) error
}

// env is what a job works with.
type env struct {
	ctx   context.Context
	sys   *system
	bench *bench
	dir   string
	seed  uint64
	size  sizes

	results map[string]float64
}

func (e *env) put(row string, v float64) { e.results[row] = v }

// rate reports operations a second.
func (e *env) rate(row string, n int, start time.Time) {
	e.put(row, float64(n)/time.Since(start).Seconds())
}

func (e *env) show() string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(e.results)) {
		out = append(out, fmt.Sprintf("%s %s", k, number(e.results[k])))
	}
	return strings.Join(out, ", ")
}

func (e *env) path(name string) string { return filepath.Join(e.dir, name) }
func (e *env) big() string             { return e.path("big") }
func (e *env) fileBytes() int64        { return int64(e.size.fileMiB) << 20 }

// cold drops everything that was read, without measuring it.
func (e *env) cold() error { return e.sys.cold(e.ctx) }

func (e *env) random(thread int) *rand.Rand { return rand.New(rand.NewPCG(e.seed, uint64(thread))) }

// noise is data that nothing compresses.
func (e *env) noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(e.seed), byte(n >> 12)}).Read(b) //nolint:errcheck // never fails
	return b
}

var jobs = []job{
	{name: "seqwrite", run: seqWrite},
	{name: "seqread", prepare: needBig, run: seqRead},
	{name: "randread", prepare: needBig, run: func(e *env) error { return randRead(e, "randread", 1) }},
	{name: "randread4", prepare: needBig, run: func(e *env) error { return randRead(e, "randread4", 4) }},
	{name: "randwrite4k", prepare: needBig, run: func(e *env) error { return randWrite(e, "randwrite4k", 4<<10, e.size.writes) }},
	{name: "randwrite64k", prepare: needBig, run: func(e *env) error { return randWrite(e, "randwrite64k", 64<<10, e.size.writes64) }},
	{name: "fsync", prepare: needBig, run: func(e *env) error { return fsyncEach(e, "fsync", 1) }},
	{name: "fsync4", prepare: needBig, run: func(e *env) error { return fsyncEach(e, "fsync4", 4) }},
	{name: "fsyncfiles", run: fsyncFiles},
	{name: "fsyncbeside", prepare: needBig, run: fsyncBeside},
	{name: "create", prepare: removeBig, run: createFiles},
	{name: "createsync", run: createSync},
	{name: "stat", prepare: needFiles, run: statFiles},
	{name: "readfiles", prepare: needFiles, run: readFiles},
	{name: "delete", prepare: needFiles, run: deleteFiles},
	{name: "untar", run: untar},
	{name: "readtree", prepare: needTree, run: readTree},
	{name: "rmtree", prepare: needTree, run: removeTree},
	{name: "sqlite", run: sqliteAutocommit},
	{name: "sqlitewal", run: sqliteWAL},
	{name: "sqlitebulk", run: sqliteBulk},
	{name: "pgbench", missing: noPostgres, prepare: initPostgres, run: runPgbench},
}

func open(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
		if err == nil {
			return fd, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

func pwrite(fd int, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, off)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("pwrite", err)
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

func pread(fd int, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := unix.Pread(fd, b, off)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return os.NewSyscallError("pread", err)
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// writeStream writes n bytes in pieces of 1 MiB, until the context ends or until returns true.
func writeStream(ctx context.Context, fd int, noise []byte, n int64, until func() bool) (written int64, err error) {
	for written < n && !until() {
		if err := ctx.Err(); err != nil {
			return written, err
		}
		if err := pwrite(fd, noise, written); err != nil {
			return written, err
		}
		written += int64(len(noise))
	}
	return written, nil
}

func never() bool { return false }

func writeBig(e *env) error {
	fd, err := open(e.big(), unix.O_CREAT|unix.O_TRUNC|unix.O_RDWR)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := writeStream(e.ctx, fd, e.noise(1<<20), e.fileBytes(), never); err != nil {
		return err
	}
	return os.NewSyscallError("fsync", unix.Fsync(fd))
}

func needBig(e *env) error {
	if st, err := os.Stat(e.big()); err == nil && st.Size() == e.fileBytes() {
		return nil
	}
	return writeBig(e)
}

func removeBig(e *env) error { return os.RemoveAll(e.big()) }

func seqWrite(e *env) error {
	if err := removeBig(e); err != nil {
		return err
	}
	start := time.Now()
	if err := writeBig(e); err != nil {
		return err
	}
	e.rate("seqwrite", e.size.fileMiB, start)
	return nil
}

func seqRead(e *env) error {
	if err := e.cold(); err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for _, row := range []string{"seqread", "seqreadwarm"} {
		fd, err := open(e.big(), unix.O_RDONLY)
		if err != nil {
			return err
		}
		start := time.Now()
		for off := int64(0); off < e.fileBytes() && err == nil; off += int64(len(buf)) {
			if err = pread(fd, buf, off); err == nil {
				err = e.ctx.Err()
			}
		}
		unix.Close(fd)
		if err != nil {
			return err
		}
		e.rate(row, e.size.fileMiB, start)
	}
	return nil
}

// parallel runs n threads, each with a descriptor of the big file.
func parallel(e *env, n, flags int, work func(thread, fd int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		fd, err := open(e.big(), flags)
		if err != nil {
			errs[i] = err
			break
		}
		wg.Go(func() {
			defer unix.Close(fd)
			errs[i] = work(i, fd)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func randRead(e *env, row string, threads int) error {
	if err := e.cold(); err != nil {
		return err
	}
	per := e.size.reads
	if threads > 1 {
		per = per / threads * 2
	}
	start := time.Now()
	err := parallel(e, threads, unix.O_RDONLY, func(t, fd int) error {
		// Read-ahead would measure something else.
		if err := unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM); err != nil {
			return os.NewSyscallError("fadvise", err)
		}
		rng, buf := e.random(t), make([]byte, 4096)
		for range per {
			if err := pread(fd, buf, rng.Int64N(e.fileBytes()/4096)*4096); err != nil {
				return err
			}
			if err := e.ctx.Err(); err != nil {
				return err
			}
		}
		return nil
	})
	e.rate(row, per*threads, start)
	return err
}

func randWrite(e *env, row string, unit, n int) error {
	noise := e.noise(unit)
	start := time.Now()
	err := parallel(e, 1, unix.O_RDWR, func(_, fd int) error {
		rng := e.random(0)
		for i := range n {
			noise[0], noise[1] = byte(i), byte(i>>8)
			if err := pwrite(fd, noise, rng.Int64N(e.fileBytes()/int64(unit))*int64(unit)); err != nil {
				return err
			}
			if err := e.ctx.Err(); err != nil {
				return err
			}
		}
		return os.NewSyscallError("fsync", unix.Fsync(fd))
	})
	e.rate(row, n, start)
	return err
}

// writeSynced writes 4 KiB somewhere in a file of size bytes and syncs, until over. Worst is the longest fsync.
func writeSynced(e *env, t, fd int, size int64, over func() bool) (n int, worst time.Duration, err error) {
	rng, noise := e.random(t), e.noise(4096)
	for ; !over(); n++ {
		noise[0], noise[1] = byte(n), byte(n>>8)
		if err := pwrite(fd, noise, rng.Int64N(size/4096)*4096); err != nil {
			return n, worst, err
		}
		start := time.Now()
		if err := unix.Fsync(fd); err != nil {
			return n, worst, os.NewSyscallError("fsync", err)
		}
		worst = max(worst, time.Since(start))
		if err := e.ctx.Err(); err != nil {
			return n, worst, err
		}
	}
	return n, worst, nil
}

func after(d time.Duration) func() bool {
	start := time.Now()
	return func() bool { return time.Since(start) >= d }
}

func fsyncEach(e *env, row string, threads int) error {
	var total atomic.Int64
	start, over := time.Now(), after(e.size.fsyncFor)
	err := parallel(e, threads, unix.O_RDWR, func(t, fd int) error {
		n, _, err := writeSynced(e, t, fd, e.fileBytes(), over)
		total.Add(int64(n))
		return err
	})
	e.rate(row, int(total.Load()), start)
	return err
}

// fsyncFiles is fsyncEach with a file for each thread: the kernel holds a file's
// lock while a FUSE server syncs it, so that only different files show whether
// the server lets callers share a flush.
func fsyncFiles(e *env) error {
	const threads = 4
	var (
		wg    sync.WaitGroup
		total atomic.Int64
		fds   [threads]int
		errs  [threads]error
	)
	for i := range fds {
		fd, err := open(e.path(fmt.Sprintf("big%d", i)), unix.O_CREAT|unix.O_TRUNC|unix.O_RDWR)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if _, err := writeStream(e.ctx, fd, e.noise(1<<20), e.fileBytes()/16, never); err != nil {
			return err
		}
		fds[i] = fd
	}
	if err := e.sys.settle(); err != nil {
		return err
	}
	start, over := time.Now(), after(e.size.fsyncFor)
	for i, fd := range fds {
		wg.Go(func() {
			n, _, err := writeSynced(e, i, fd, e.fileBytes()/16, over)
			total.Add(int64(n))
			errs[i] = err
		})
	}
	wg.Wait()
	e.rate("fsyncfiles", int(total.Load()), start)
	for i := range fds {
		if err := os.Remove(e.path(fmt.Sprintf("big%d", i))); err != nil {
			return err
		}
	}
	return errors.Join(errs[:]...)
}

// fsyncBeside syncs small writes while another process streams (here: a child of
// this program would share nothing more than a thread does).
func fsyncBeside(e *env) error {
	stream := e.path("stream")
	var (
		wg       sync.WaitGroup
		written  int64
		errWrite error
	)
	over := after(e.size.fsyncFor + time.Second)
	start := time.Now()
	wg.Go(func() {
		noise := e.noise(1 << 20)
		for !over() && errWrite == nil { // anew before the file fills the device
			var fd int
			if fd, errWrite = open(stream, unix.O_CREAT|unix.O_TRUNC|unix.O_RDWR); errWrite != nil {
				return
			}
			var n int64
			n, errWrite = writeStream(e.ctx, fd, noise, 512<<20, over)
			written += n
			unix.Close(fd)
		}
	})
	var n int
	var worst time.Duration
	err := parallel(e, 1, unix.O_RDWR, func(t, fd int) (err error) {
		n, worst, err = writeSynced(e, t, fd, e.fileBytes(), over)
		return err
	})
	e.rate("fsyncbeside", n, start)
	wg.Wait()
	e.rate("besidestream", int(written>>20), start)
	e.put("besideworst", worst.Seconds()*1000)
	return errors.Join(err, errWrite, os.Remove(stream))
}

// Small files lie in directories of 100.
func (e *env) small(i int) string { return fmt.Sprintf("%s/files/d%03d/f%02d", e.dir, i/100, i%100) }

func makeDirs(e *env, top string, n int) error {
	for i := 0; i < n; i += 100 {
		if err := os.MkdirAll(fmt.Sprintf("%s/%s/d%03d", e.dir, top, i/100), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// create writes one new file of 4 KiB.
func create(path string, data []byte, sync bool) error {
	fd, err := open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY)
	if err != nil {
		return err
	}
	err = pwrite(fd, data, 0)
	if err == nil && sync {
		err = os.NewSyscallError("fsync", unix.Fsync(fd))
	}
	return errors.Join(err, unix.Close(fd))
}

func createAll(e *env) error {
	if err := os.RemoveAll(e.path("files")); err != nil {
		return err
	}
	if err := makeDirs(e, "files", e.size.files); err != nil {
		return err
	}
	noise := e.noise(4096)
	for i := range e.size.files {
		noise[0], noise[1] = byte(i), byte(i>>8)
		if err := create(e.small(i), noise, false); err != nil {
			return err
		}
		if err := e.ctx.Err(); err != nil {
			return err
		}
	}
	return e.sys.settle()
}

func createFiles(e *env) error {
	start := time.Now()
	err := createAll(e)
	e.rate("create", e.size.files, start)
	return err
}

func needFiles(e *env) error {
	if _, err := os.Stat(e.small(e.size.files - 1)); err == nil {
		return nil
	}
	return createAll(e)
}

func createSync(e *env) error {
	const most = 100_000
	top := fmt.Sprintf("synced%d", e.seed)
	if err := makeDirs(e, top, most/100); err != nil {
		return err
	}
	noise := e.noise(4096)
	start, over := time.Now(), after(e.size.fsyncFor)
	n := 0
	for ; !over() && n < most; n++ {
		noise[0], noise[1] = byte(n), byte(n>>8)
		if err := create(fmt.Sprintf("%s/%s/d%03d/f%d", e.dir, top, n%10, n), noise, true); err != nil {
			return err
		}
		if err := e.ctx.Err(); err != nil {
			return err
		}
	}
	e.rate("createsync", n, start)
	return os.RemoveAll(e.path(top))
}

func statFiles(e *env) error {
	if err := e.cold(); err != nil {
		return err
	}
	stat := func(i int) error {
		var st unix.Stat_t
		if err := unix.Stat(e.small(i), &st); err != nil {
			return &os.PathError{Op: "stat", Path: e.small(i), Err: err}
		}
		return nil
	}
	start := time.Now()
	for i := range e.size.files {
		if err := stat(i); err != nil {
			return err
		}
	}
	e.rate("statcold", e.size.files, start)
	// Longer than the second that some servers let the kernel remember attributes.
	start = time.Now()
	n := 0
	for over := after(e.size.fsyncFor); !over(); n++ {
		if err := stat(n % e.size.files); err != nil {
			return err
		}
	}
	e.rate("statwarm", n, start)
	return nil
}

func readFiles(e *env) error {
	if err := e.cold(); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	start := time.Now()
	for i := range e.size.files {
		fd, err := open(e.small(i), unix.O_RDONLY)
		if err != nil {
			return err
		}
		err = pread(fd, buf, 0)
		unix.Close(fd)
		if err != nil {
			return err
		}
		if err := e.ctx.Err(); err != nil {
			return err
		}
	}
	e.rate("readfiles", e.size.files, start)
	return nil
}

func deleteFiles(e *env) error {
	start := time.Now()
	for i := range e.size.files {
		if err := unix.Unlink(e.small(i)); err != nil {
			return &os.PathError{Op: "unlink", Path: e.small(i), Err: err}
		}
	}
	e.rate("delete", e.size.files, start)
	return os.RemoveAll(e.path("files"))
}

// sourceTree is Go's own source, as an archive in memory (/dev/shm where it is).
type sourceTree struct {
	archive string
	files   int
}

func (t *sourceTree) make(ctx context.Context, work string, short bool) error {
	root, err := command(ctx, "go", "env", "GOROOT")
	if err != nil {
		return fmt.Errorf("the source tree is Go's own: %w", err)
	}
	// A tenth of it keeps -short short.
	dir := filepath.Join(strings.TrimSpace(root), "src")
	if short {
		dir = filepath.Join(dir, "cmd", "compile")
	}
	if err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		t.files++
		return err
	}); err != nil {
		return err
	}
	t.archive = filepath.Join(work, "tree.tar")
	_, err = command(ctx, "tar", "--create", "--file", t.archive, "--directory", dir, ".")
	return err
}

func (e *env) tree() string { return e.path("tree") }

func unpack(e *env) error {
	if err := os.RemoveAll(e.tree()); err != nil {
		return err
	}
	if err := os.Mkdir(e.tree(), 0o755); err != nil {
		return err
	}
	// The archive in the page cache.
	f, err := os.Open(e.bench.tree.archive)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, f)
	return errors.Join(err, f.Close())
}

func untar(e *env) error {
	if err := unpack(e); err != nil {
		return err
	}
	start := time.Now()
	_, err := command(e.ctx, "tar", "--extract", "--file", e.bench.tree.archive, "--directory", e.tree())
	e.rate("untar", e.bench.tree.files, start)
	return err
}

func needTree(e *env) error {
	if _, err := os.Stat(e.tree()); err == nil {
		return nil
	}
	if err := unpack(e); err != nil {
		return err
	}
	_, err := command(e.ctx, "tar", "--extract", "--file", e.bench.tree.archive, "--directory", e.tree())
	return err
}

func readTree(e *env) error {
	if err := e.cold(); err != nil {
		return err
	}
	start := time.Now()
	_, err := command(e.ctx, "tar", "--create", "--file", "-", "--directory", e.tree(), ".") // read into our memory
	e.rate("readtree", e.bench.tree.files, start)
	return err
}

func removeTree(e *env) error {
	start := time.Now()
	_, err := command(e.ctx, "rm", "-rf", e.tree())
	e.rate("rmtree", e.bench.tree.files, start)
	return err
}

// sqlite runs statements in a new database.
func (e *env) sqlite(row string, n int, setup string, statements func(w *strings.Builder)) error {
	db := e.path("db.sqlite")
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := os.RemoveAll(db + suffix); err != nil {
			return err
		}
	}
	if _, err := command(e.ctx, "sqlite3", db, setup+"CREATE TABLE t (id INTEGER PRIMARY KEY, k INTEGER, v BLOB);"); err != nil {
		return err
	}
	var script strings.Builder
	script.WriteString(setup)
	statements(&script)
	c := exec.CommandContext(e.ctx, "sqlite3", "-batch", "-bail", db)
	c.Stdin = strings.NewReader(script.String())
	start := time.Now()
	out, err := c.CombinedOutput()
	e.rate(row, n, start)
	if err != nil {
		return fmt.Errorf("sqlite3: %w: %s", err, out)
	}
	return nil
}

func inserts(n int) func(*strings.Builder) {
	return func(w *strings.Builder) {
		for i := range n {
			fmt.Fprintf(w, "INSERT INTO t (k, v) VALUES (%d, randomblob(100));\n", i)
		}
	}
}

func sqliteAutocommit(e *env) error {
	n := e.size.transaction
	return e.sqlite("sqlite", n, "PRAGMA synchronous=FULL;\n", inserts(n))
}

func sqliteWAL(e *env) error {
	n := e.size.wal
	return e.sqlite("sqlitewal", n, "PRAGMA journal_mode=WAL;\nPRAGMA synchronous=NORMAL;\n", inserts(n))
}

func sqliteBulk(e *env) error {
	n := e.size.rows
	return e.sqlite("sqlitebulk", n, "PRAGMA synchronous=FULL;\n", func(w *strings.Builder) {
		fmt.Fprintf(w, `WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i < %d)
INSERT INTO t (k, v) SELECT i, randomblob(100) FROM c;`, n)
	})
}
