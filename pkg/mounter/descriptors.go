package mounter

import (
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
)

// maxFiles is how many descriptors may come with a request.
const maxFiles = 2

// fileReader reads from a connection and keeps the descriptors that come along.
type fileReader struct {
	c     *net.UnixConn
	files []*os.File
	err   error // about what came along
}

// frame reads a message with its descriptors; see readFrame.
func (r *fileReader) frame(m any) (e envelope, secret []byte, err error) {
	e, secret, err = readFrame(r, m)
	if err == nil && r.err != nil { // io.ReadFull drops an error that comes with enough bytes
		clear(secret)
		return e, nil, r.err
	}
	return e, secret, err
}

// Read implements io.Reader.
func (r *fileReader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	oob := make([]byte, unix.CmsgSpace(4*(maxFiles+1)))
	n, oobn, _, _, err := r.c.ReadMsgUnix(b, oob)
	fds, ferr := control.Descriptors(oob[:oobn])
	if ferr != nil {
		r.err = fmt.Errorf("%w: malformed descriptors: %w", ErrInvalid, ferr)
	}
	for _, fd := range fds {
		f := os.NewFile(uintptr(fd), "descriptor from a caller")
		if len(r.files) == maxFiles {
			f.Close()
			r.err = fmt.Errorf("%w: more than %d descriptors", ErrInvalid, maxFiles)
			continue
		}
		r.files = append(r.files, f)
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	return n, err
}

// file returns a descriptor, or nil.
func (r *fileReader) file(i int) *os.File {
	if i < len(r.files) {
		return r.files[i]
	}
	return nil
}

// close closes the descriptors.
func (r *fileReader) close() {
	for _, f := range r.files {
		f.Close()
	}
}

// fileWriter sends descriptors with the first bytes that are written.
type fileWriter struct {
	c     *net.UnixConn
	files []*os.File
}

// Write implements io.Writer.
func (w *fileWriter) Write(b []byte) (int, error) {
	if len(w.files) == 0 {
		return w.c.Write(b)
	}
	var fds []int
	for _, f := range w.files {
		fds = append(fds, int(f.Fd()))
	}
	w.files = nil
	n, _, err := w.c.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
	if err == nil && n < len(b) {
		var more int
		more, err = w.c.Write(b[n:])
		n += more
	}
	return n, err
}
