package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

const (
	maxRequest = 16 << 10
	maxLine    = 64 << 10
	maxConns   = 32
)

type request struct {
	Op   string          `json:"op"`
	Args json.RawMessage `json:"args,omitempty"`
}

// opName is the request that names the call to which the next requests on the connection belong.
// Every server answers it.
const opName = "request-id"

// nameArgs are the arguments of opName.
type nameArgs struct {
	ID string `json:"id"`
}

// answer is one line of an answer; exactly one field is set.
type answer struct {
	Progress *Progress       `json:"progress,omitempty"`
	Item     json.RawMessage `json:"item,omitempty"`
	Error    *Error          `json:"error,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
}

// Progress of a long request, in a unit that depends on the request. Total 0 means not known yet.
type Progress struct {
	Done  uint64 `json:"done"`
	Total uint64 `json:"total"`
}

// decode is strict: an unknown field means that the request is of another version.
func decode(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one JSON value on the line")
	}
	return nil
}

// lineReader reads lines and the descriptors that come with them.
type lineReader struct {
	c    *net.UnixConn
	max  int
	buf  []byte
	file *os.File // arrived since the last line
}

// next returns the next line, which is valid until the next call, and the descriptor that came with
// it. More than one descriptor is an error.
func (r *lineReader) next() ([]byte, *os.File, error) {
	for {
		if i := bytes.IndexByte(r.buf, '\n'); i >= 0 {
			line := r.buf[:i:i]
			r.buf = r.buf[i+1:]
			f := r.file
			r.file = nil
			return line, f, nil
		}
		if len(r.buf) >= r.max {
			return nil, nil, fmt.Errorf("line is longer than %d bytes", r.max)
		}
		if err := r.fill(); err != nil {
			return nil, nil, err
		}
	}
}

func (r *lineReader) fill() error {
	b, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*4))
	n, oobn, _, _, err := r.c.ReadMsgUnix(b, oob)
	fds, ferr := Descriptors(oob[:oobn])
	for _, fd := range fds {
		f := os.NewFile(uintptr(fd), "descriptor from a caller")
		if r.file != nil || len(fds) > 1 {
			f.Close()
			ferr = errors.Join(ferr, errors.New("more than one file descriptor with one line"))
			continue
		}
		r.file = f
	}
	if err = errors.Join(err, ferr); err != nil {
		return err
	}
	if n == 0 {
		return io.EOF
	}
	r.buf = append(r.buf[:len(r.buf):len(r.buf)], b[:n]...)
	return nil
}

// close closes a descriptor that no line has claimed.
func (r *lineReader) close() {
	if r.file != nil {
		r.file.Close()
		r.file = nil
	}
}

// Descriptors returns the descriptors of a control message (SCM_RIGHTS).
func Descriptors(oob []byte) (fds []int, err error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return fds, err
		}
		fds = append(fds, got...)
	}
	return fds, nil
}
