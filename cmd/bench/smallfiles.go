package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// There are 100 small files in each directory.
func (e *env) small(i int) string { return fmt.Sprintf("%s/files/d%03d/f%02d", e.dir, i/100, i%100) }

func makeDirs(e *env, top string, n int) error {
	for i := 0; i < n; i += 100 {
		if err := os.MkdirAll(fmt.Sprintf("%s/%s/d%03d", e.dir, top, i/100), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// create writes a new file of 4 KiB.
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
	// Longer than one second, for which some servers let the kernel cache attributes.
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
