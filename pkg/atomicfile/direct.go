package atomicfile

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// directAlign is what O_DIRECT wants of addresses, offsets and lengths on every file system that is
// in use: the size of a page.
const directAlign = 4096

// WriteDirect writes the whole content of a large file past the page cache: nobody reads it soon, and
// what others have cached stays. Where that is impossible, it writes as Write does. Nothing may have
// been written before.
func (f *File) WriteDirect(b []byte) (int, error) {
	n := len(b) &^ (directAlign - 1)
	if n == 0 || uintptr(unsafe.Pointer(unsafe.SliceData(b)))%directAlign != 0 {
		return f.Write(b)
	}
	if err := f.step("write " + f.temp); err != nil {
		return 0, err
	}
	done := 0
	if f.direct(true) == nil {
		w, err := f.f.Write(b[:n])
		if off := f.direct(false); off != nil {
			return w, off
		}
		if done = w; err != nil && w%directAlign != 0 { // what is left would not be at an aligned place
			return done, err
		}
		// An error may be that of a file system without O_DIRECT. Any other comes again.
	}
	w, err := f.f.Write(b[done:])
	return done + w, err
}

// direct switches O_DIRECT.
func (f *File) direct(on bool) error {
	raw, err := f.f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) {
		var flags int
		if flags, err = unix.FcntlInt(fd, unix.F_GETFL, 0); err != nil {
			return
		}
		flags &^= unix.O_DIRECT
		if on {
			flags |= unix.O_DIRECT
		}
		_, err = unix.FcntlInt(fd, unix.F_SETFL, flags)
	})
	if cerr != nil {
		return cerr
	}
	return err
}
