package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// sizes are the sizes of the jobs, or their durations.
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

// env is the environment of a job.
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

// rate reports operations per second.
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

func (e *env) big() string { return e.path("big") }

func (e *env) fileBytes() int64 { return int64(e.size.fileMiB) << 20 }

// cold drops all caches. The time for this is not measured.
func (e *env) cold() error { return e.sys.cold(e.ctx) }

func (e *env) random(thread int) *rand.Rand { return rand.New(rand.NewPCG(e.seed, uint64(thread))) }

// noise returns incompressible data.
func (e *env) noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(e.seed), byte(n >> 12)}).Read(b) //nolint:errcheck // never fails
	return b
}

func never() bool { return false }

// parallel runs n threads, each with its own descriptor of the big file.
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

func after(d time.Duration) func() bool {
	start := time.Now()
	return func() bool { return time.Since(start) >= d }
}
