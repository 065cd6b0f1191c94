package main

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// writeSynced writes 4 KiB at random offsets of a file of size bytes, and syncs each, until over.
// worst is the longest fsync.
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

// fsyncFiles is fsyncEach with one file per thread. The kernel holds the lock of a file while a
// FUSE server syncs it. So only different files show whether the server lets callers share a flush.
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

// fsyncBeside syncs small writes while another thread writes a stream.
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
		for !over() && errWrite == nil { // start again before the file fills the device
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
