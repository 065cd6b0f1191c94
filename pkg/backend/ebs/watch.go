package ebs

import (
	"os"

	"golang.org/x/sys/unix"
)

// dirWatch reports when something appears in a directory.
type dirWatch struct {
	f      *os.File
	events chan struct{} // holds one
	done   chan struct{}
}

// watchDir never fails: without inotify there are no events, and waiting callers still poll.
func watchDir(dir string) *dirWatch {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return &dirWatch{}
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ATTRIB); err != nil {
		unix.Close(fd)
		return &dirWatch{}
	}
	w := &dirWatch{f: os.NewFile(uintptr(fd), "inotify"), events: make(chan struct{}, 1), done: make(chan struct{})}
	go w.run()
	return w
}

func (w *dirWatch) run() {
	defer close(w.done)
	buf := make([]byte, 4096)
	for {
		if _, err := w.f.Read(buf); err != nil {
			return // closed
		}
		select {
		case w.events <- struct{}{}:
		default:
		}
	}
}

func (w *dirWatch) close() {
	if w.f == nil {
		return
	}
	w.f.Close()
	<-w.done
}
