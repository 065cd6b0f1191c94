package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// lastAnswer bounds how long a caller may take to read its answer when the server ends.
const lastAnswer = 10 * time.Second

// Serve answers on l until ctx ends or l is closed, and returns when no handler runs any more.
func Serve(ctx context.Context, l *net.UnixListener, h Handler) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	slots := make(chan struct{}, maxConns)
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		select {
		case slots <- struct{}{}:
		default:
			c.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			serveConn(ctx, c, h)
		})
	}
}

func serveConn(ctx context.Context, c *net.UnixConn, h Handler) {
	defer c.Close()
	// At the end no more requests, but who waits for an answer gets it: Unmount's is the reason of the end.
	stop := context.AfterFunc(ctx, func() {
		_ = c.SetWriteDeadline(time.Now().Add(lastAnswer))
		_ = c.CloseRead()
	})
	defer stop()
	if CheckPeer(c) != nil {
		return
	}
	r := bufio.NewReaderSize(c, maxRequest)
	for {
		line, err := r.ReadSlice('\n') // fails with ErrBufferFull on too long a request
		if err != nil {
			return
		}
		b, err := json.Marshal(answer(ctx, line, h))
		if err != nil || len(b) >= maxResponse {
			b = []byte(`{"error":"response too long"}`)
		}
		if _, err := c.Write(append(b, '\n')); err != nil {
			return
		}
	}
}

func answer(ctx context.Context, line []byte, h Handler) response {
	var req request
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&req); err != nil {
		return response{Error: "malformed request"}
	}
	if _, err := d.Token(); err != io.EOF {
		return response{Error: "malformed request"}
	}
	var resp response
	var err error
	switch req.Op {
	case "status":
		var s Status
		s, err = h.Status(ctx)
		resp.Status = &s
	case "stats":
		var s Stats
		s, err = h.Stats(ctx)
		resp.Stats = &s
	case "grow":
		resp.SizeBytes, err = h.Grow(ctx)
	case "sync":
		err = h.Sync(ctx)
	case "unmount":
		err = h.Unmount(ctx)
	default:
		return response{Error: "unknown request"}
	}
	if err != nil {
		return response{Error: err.Error()}
	}
	return resp
}
