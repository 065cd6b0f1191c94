package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/requestid"
)

// Client calls the mount server that listens at Path. Every call has a connection of its own and
// ends with its context.
type Client struct{ Path string }

// Request is a request to a mount server. Caller and server agree on what Op means and on the types
// of its Args, items and result.
type Request struct {
	Op   string
	Args any      // marshalled; nil if there are none
	File *os.File // sent along; nil if there is none. It stays open
	// Item gets each item of the answer, and Progress the progress. Either may be nil.
	Item     func(json.RawMessage) error
	Progress func(Progress)
}

// Status asks which volume the server serves, and how.
func (c Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.Do(ctx, Request{Op: "status"}, &s)
}

// Stats asks how full the volume is.
func (c Client) Stats(ctx context.Context) (s Stats, err error) {
	return s, c.Do(ctx, Request{Op: "stats"}, &s)
}

// Grow lets the volume grow to its device's size and returns its size in bytes.
func (c Client) Grow(ctx context.Context) (int64, error) {
	var g grown
	err := c.Do(ctx, Request{Op: "grow"}, &g)
	return g.SizeBytes, err
}

// Sync asks the server to make all acknowledged writes durable.
func (c Client) Sync(ctx context.Context) error { return c.Do(ctx, Request{Op: "sync"}, nil) }

// Unmount asks the server to end; see Handler.
func (c Client) Unmount(ctx context.Context) error { return c.Do(ctx, Request{Op: "unmount"}, nil) }

// Do sends a request and decodes its result, unless result is nil. If the server refuses the
// request, the error is an *Error. If the connection breaks, it is another error.
func (c Client) Do(ctx context.Context, r Request, result any) error {
	conn, err := DialSocket(ctx, c.Path)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := CheckPeer(conn); err != nil { // another user's process may have taken the path
		return err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var b []byte
	if err = name(ctx, conn); err == nil {
		err = r.send(conn)
	}
	if err == nil {
		b, err = r.receive(conn)
	}
	if errors.Is(err, ErrServer) {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("mount server request %s: %w", r.Op, ctx.Err())
	}
	if err == nil && result != nil {
		err = json.Unmarshal(b, result)
	}
	if err != nil {
		return fmt.Errorf("mount server request %s: %w", r.Op, err)
	}
	return nil
}

// name sends the id of the call that the next request on the connection belongs to. It is a request
// of its own, so that a server of an older version refuses only this one and answers the next.
func name(ctx context.Context, conn *net.UnixConn) error {
	id := requestid.From(ctx)
	if id == "" {
		return nil
	}
	r := Request{Op: opName, Args: nameArgs{ID: id}}
	if err := r.send(conn); err != nil {
		return err
	}
	// Wait for its answer: a descriptor must arrive with the line that it belongs to.
	if _, err := r.receive(conn); err != nil && !errors.Is(err, ErrServer) {
		return err
	}
	return nil
}

func (r *Request) send(conn *net.UnixConn) error {
	req := request{Op: r.Op}
	if r.Args != nil {
		b, err := json.Marshal(r.Args)
		if err != nil {
			return err
		}
		req.Args = b
	}
	b, err := json.Marshal(req)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	var oob []byte
	if r.File != nil {
		oob = unix.UnixRights(int(r.File.Fd()))
	}
	n, _, err := conn.WriteMsgUnix(b, oob, nil)
	if err == nil && n < len(b) {
		_, err = conn.Write(b[n:])
	}
	return err
}

// receive reads the answer up to and including its result.
func (r *Request) receive(conn *net.UnixConn) ([]byte, error) {
	in := lineReader{c: conn, max: maxLine}
	defer in.close()
	for {
		line, f, err := in.next()
		if err != nil {
			return nil, err
		}
		if f != nil {
			f.Close()
		}
		var a answer
		if err := json.Unmarshal(line, &a); err != nil {
			return nil, err
		}
		switch {
		case a.Error != nil:
			return nil, a.Error
		case a.Result != nil:
			return a.Result, nil
		case a.Progress != nil && r.Progress != nil:
			r.Progress(*a.Progress)
		case a.Item != nil && r.Item != nil:
			if err := r.Item(a.Item); err != nil {
				return nil, err
			}
		}
	}
}
