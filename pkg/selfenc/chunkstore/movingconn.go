package chunkstore

import (
	"context"
	"errors"
	"net"
	"time"
)

// movingConn is a connection that fails if nothing was transferred in either direction for some
// time. So a server that stalls, in the middle of an object or before its answer, is a temporary
// failure. It also limits the rate, in pieces so small that the connection never stalls.
type movingConn struct {
	net.Conn
	stall    time.Duration
	up, down *Pacer // nil: no limit
}

func newMovingConn(c net.Conn, stall time.Duration, up, down *Pacer) (net.Conn, error) {
	m := &movingConn{c, stall, up, down}
	if err := m.moved(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return m, nil
}

// moved extends the deadline of both directions, also for a Read that waits for the answer while
// the request is being written.
func (c *movingConn) moved() error { return c.SetDeadline(time.Now().Add(c.stall)) }

func (c *movingConn) Read(b []byte) (int, error) {
	if c.down != nil {
		b = b[:min(len(b), c.down.piece(movingPiece))]
	}
	n, err := c.Conn.Read(b)
	if err == nil {
		// What was read is paid for afterwards: the server sends no more than the buffers of the
		// connection hold meanwhile.
		if err = c.down.Wait(context.Background(), n); err == nil {
			err = c.moved()
		}
	}
	return n, err
}

func (c *movingConn) Write(b []byte) (n int, err error) {
	for n < len(b) { // write in pieces, each of which extends the deadline
		piece := b[n:min(n+c.up.piece(movingPiece), len(b))]
		if err := c.up.Wait(context.Background(), len(piece)); err != nil {
			return n, err
		}
		if err := c.moved(); err != nil {
			return n, err
		}
		k, err := c.Conn.Write(piece)
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, c.moved()
}

const movingPiece = 64 << 10
