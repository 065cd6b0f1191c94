package mounter

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
)

// Limits of a frame. A connection to the mounter carries one request and one response, each of this
// form:
//
//	u32 BE length of the JSON ‖ u32 BE length of the secret ‖ JSON ‖ secret
//
// After the request's object, the JSON may have a second one, an envelope. Mounters of older
// versions do not read that far, and callers of older versions send none. Keys are the secret of a
// "mount" and a "check-keys" request; they are never JSON. Both sides clear their buffers. Requests
// about snapshots come with descriptors (SCM_RIGHTS): "snapshot-start" with a pipe and the store's
// socket, "snapshot-store" with the latter.
const (
	maxFrameJSON   = 256 << 10
	maxFrameSecret = 2 * KeyBytes
)

type call struct {
	Op      string          `json:"op"`
	Mount   *MountRequest   `json:"mount,omitempty"`
	Unmount *UnmountRequest `json:"unmount,omitempty"`
	Volume  string          `json:"volume,omitempty"`
	// Start is the request of "snapshot-start", and Snapshot the stored snapshot of
	// "snapshot-cancel" and "snapshot-store".
	Start    *workerctl.Start `json:"start,omitempty"`
	Snapshot string           `json:"snapshot,omitempty"`
}

// volume returns the volume that a call is about, or "" for all.
func (c call) volume() string {
	switch {
	case c.Mount != nil:
		return c.Mount.Volume
	case c.Unmount != nil:
		return c.Unmount.Volume
	case c.Start != nil:
		return c.Start.Volume
	}
	return c.Volume
}

type reply struct {
	Error     *wireError        `json:"error,omitempty"`
	SizeBytes int64             `json:"sizeBytes,omitempty"`
	Stats     *control.Stats    `json:"stats,omitempty"`
	Health    *Info             `json:"health,omitempty"`
	List      []Info            `json:"list,omitempty"`
	Idle      bool              `json:"idle,omitempty"`
	Job       *workerctl.Status `json:"job,omitempty"`
}

// envelope accompanies a request. Readers ignore fields that they do not know.
type envelope struct {
	RequestID string `json:"requestId,omitempty"`
}

// writeFrame writes a message and its envelope, unless that is empty.
func writeFrame(w io.Writer, m any, e envelope, secret []byte) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if e != (envelope{}) {
		more, err := json.Marshal(e)
		if err != nil {
			return err
		}
		b = append(append(b, '\n'), more...)
	}
	if len(b) > maxFrameJSON || len(secret) > maxFrameSecret {
		return fmt.Errorf("%w: message too long", ErrInvalid)
	}
	buf := make([]byte, 8, 8+len(b)+len(secret))
	defer clear(buf[:cap(buf)])
	binary.BigEndian.PutUint32(buf, uint32(len(b)))
	binary.BigEndian.PutUint32(buf[4:], uint32(len(secret)))
	buf = append(append(buf, b...), secret...)
	_, err = w.Write(buf)
	return err
}

// readFrame decodes a message into m. It returns the envelope and the secret, which is nil if there
// is none.
func readFrame(r io.Reader, m any) (e envelope, secret []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return e, nil, err
	}
	n, s := binary.BigEndian.Uint32(head[:]), binary.BigEndian.Uint32(head[4:])
	if n > maxFrameJSON || s > maxFrameSecret {
		return e, nil, fmt.Errorf("%w: message too long", ErrInvalid)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return e, nil, err
	}
	if s > 0 {
		secret = make([]byte, s)
		if _, err := io.ReadFull(r, secret); err != nil {
			clear(secret)
			return e, nil, err
		}
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		clear(secret)
		return e, nil, fmt.Errorf("%w: malformed message", ErrInvalid)
	}
	if rest := b[d.InputOffset():]; json.NewDecoder(bytes.NewReader(rest)).Decode(&e) != nil {
		e = envelope{} // ignore it, as mounters of older versions do
	}
	return e, secret, nil
}
