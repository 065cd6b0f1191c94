package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// Client asks the mount server that listens at Path. Every call is a connection of its own and ends with its context.
type Client struct{ Path string }

// Status asks who serves what.
func (c Client) Status(ctx context.Context) (Status, error) {
	r, err := c.call(ctx, "status")
	if err == nil && r.Status == nil {
		err = errors.New("mount server sent no status")
	}
	if err != nil {
		return Status{}, err
	}
	return *r.Status, nil
}

// Stats asks how full the volume is.
func (c Client) Stats(ctx context.Context) (Stats, error) {
	r, err := c.call(ctx, "stats")
	if err == nil && r.Stats == nil {
		err = errors.New("mount server sent no statistics")
	}
	if err != nil {
		return Stats{}, err
	}
	return *r.Stats, nil
}

// Grow lets the volume grow to its device's size and returns its size in bytes.
func (c Client) Grow(ctx context.Context) (int64, error) {
	r, err := c.call(ctx, "grow")
	return r.SizeBytes, err
}

// Sync makes everything acknowledged durable.
func (c Client) Sync(ctx context.Context) error {
	_, err := c.call(ctx, "sync")
	return err
}

// Unmount ends serving; see Handler.
func (c Client) Unmount(ctx context.Context) error {
	_, err := c.call(ctx, "unmount")
	return err
}

func (c Client) call(ctx context.Context, op string) (response, error) {
	conn, err := DialSocket(ctx, c.Path)
	if err != nil {
		return response{}, err
	}
	defer conn.Close()
	if err := CheckPeer(conn); err != nil { // somebody else's socket in our place
		return response{}, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	resp, err := roundTrip(conn, bufio.NewReaderSize(conn, maxResponse), op)
	if ctx.Err() != nil {
		return response{}, fmt.Errorf("ask mount server for %s: %w", op, ctx.Err())
	}
	if err != nil {
		return response{}, fmt.Errorf("ask mount server for %s: %w", op, err)
	}
	if resp.Error != "" {
		return response{}, fmt.Errorf("%w: %s", ErrServer, resp.Error)
	}
	return resp, nil
}

type writer interface{ Write([]byte) (int, error) }

func roundTrip(w writer, r *bufio.Reader, op string) (response, error) {
	b, err := json.Marshal(request{Op: op})
	if err != nil {
		return response{}, err
	}
	if _, err := w.Write(append(b, '\n')); err != nil {
		return response{}, err
	}
	line, err := r.ReadSlice('\n')
	if err != nil {
		return response{}, err
	}
	var resp response
	return resp, json.Unmarshal(line, &resp)
}
