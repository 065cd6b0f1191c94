package main

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

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

// writeStream writes n bytes in pieces of 1 MiB. It stops earlier if the context ends or until
// returns true.
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
		// Disable read-ahead, which would distort the measurement.
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
