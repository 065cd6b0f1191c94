package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
)

// qmp is a connection of QEMU's monitor protocol: one command at a time, with events in between.
type qmp struct {
	conn    net.Conn
	command sync.Mutex
	answers chan message

	mu      sync.Mutex
	seen    []message     // events; guarded by mu
	changed chan struct{} // closed and replaced with each event; guarded by mu
	err     error         // why it ended; guarded by mu
}

type message struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string         `json:"event"`
	Data  map[string]any `json:"data"`
}

func newQMP(ctx context.Context, conn net.Conn) (*qmp, error) {
	q := &qmp{conn: conn, answers: make(chan message), changed: make(chan struct{})}
	go q.read()
	return q, q.do(ctx, "qmp_capabilities", nil)
}

func (q *qmp) read() {
	d := json.NewDecoder(q.conn)
	for {
		var m message
		if err := d.Decode(&m); err != nil {
			q.note(message{}, fmt.Errorf("QEMU has ended: %w", err))
			close(q.answers)
			return
		}
		switch {
		case m.Event != "":
			q.note(m, nil)
		case m.Return != nil || m.Error != nil:
			q.answers <- m
		}
	}
}

func (q *qmp) note(m message, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.seen, q.err = append(q.seen, m), err
	close(q.changed)
	q.changed = make(chan struct{})
}

// do executes a command.
func (q *qmp) do(ctx context.Context, name string, args map[string]any) error {
	q.command.Lock()
	defer q.command.Unlock()
	c := map[string]any{"execute": name}
	if args != nil {
		c["arguments"] = args
	}
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if _, err := q.conn.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	select {
	case m, ok := <-q.answers:
		if !ok {
			return fmt.Errorf("%s: %w", name, errors.New("QEMU has ended"))
		}
		if m.Error != nil {
			return fmt.Errorf("%s: %s", name, m.Error.Desc)
		}
		return nil
	case <-ctx.Done():
		q.conn.Close() // a late answer must not count for the next command
		return fmt.Errorf("%s: %w", name, ctx.Err())
	}
}

// mark returns the position in the events where a later await starts.
func (q *qmp) mark() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.seen)
}

// await waits for an event of a device.
func (q *qmp) await(ctx context.Context, from int, event, device string) error {
	for {
		q.mu.Lock()
		for _, m := range q.seen[from:] {
			if m.Event == event && m.Data["device"] == device {
				q.mu.Unlock()
				return nil
			}
		}
		changed, err := q.changed, q.err
		q.mu.Unlock()
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("no %s of %s: %w", event, device, ctx.Err())
		}
	}
}
