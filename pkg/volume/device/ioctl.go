package device

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func ioctlPtr[T any](fd int, req uint, p *T) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(unsafe.Pointer(p))); e != 0 {
		return e
	}
	return nil
}
