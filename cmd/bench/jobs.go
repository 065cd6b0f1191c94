package main

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

var (
	fullSizes = sizes{fileMiB: 512, reads: 10_000, writes: 20_000, writes64: 3000, fsyncFor: 2 * time.Second, files: 8000,
		transaction: 1500, wal: 8000, rows: 300_000, pgScale: 3, pgFor: 4 * time.Second}
	// A throttled device is the bottleneck, so fewer operations are sufficient.
	gp3Sizes = sizes{fileMiB: 384, reads: 6000, writes: 8000, writes64: 1500, fsyncFor: 4 * time.Second, files: 4000,
		transaction: 300, wal: 8000, rows: 300_000, pgScale: 3, pgFor: 6 * time.Second}
	shortSizes = sizes{fileMiB: 64, reads: 1000, writes: 2000, writes64: 300, fsyncFor: 300 * time.Millisecond, files: 500,
		transaction: 100, wal: 500, rows: 20_000, pgScale: 1, pgFor: time.Second}
)

// job is a task that runs on every file system. It may report several rows.
type job struct {
	name    string
	missing func() string    // the reason why it cannot run here, or ""
	prepare func(*env) error // not measured
	run     func(*env) error
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
