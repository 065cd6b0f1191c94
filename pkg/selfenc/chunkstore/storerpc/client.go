package storerpc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
)

// Client is a chunk store at the other end of a connection.
type Client struct {
	conn   net.Conn
	places chan struct{} // one for each request that was not answered
	window *semaphore.Weighted
	ended  chan struct{} // closed when the connection has ended

	mu    sync.Mutex
	next  uint64           // guarded by mu
	calls map[uint64]*call // guarded by mu
	err   error            // guarded by mu: why the connection ended

	writing sync.Mutex // held for one frame
}

// call is a request that was not answered.
type call struct {
	most uint32        // bytes that its answer may have
	need int64         // of the window
	done chan struct{} // closed with the answer
	a    answer
	body []byte
	err  error
}

// ClientOptions bound what a client asks for at once. They are no more than the
// server's: then the server never leaves a frame unread, and whoever waits for
// room can stop waiting.
type ClientOptions struct {
	Requests    int   // 0: 16
	MemoryBytes int64 // of bodies. 0: 128 MiB; at least MaxObjectBytes
}

const (
	// maxStall is how long a peer may leave a frame unread.
	maxStall = time.Minute
	// cancelStall is the same for a frame whose caller wants to stop.
	cancelStall = 5 * time.Second
)

// ErrClosed is what a client says after Close.
var ErrClosed = errors.New("the store's connection was closed")

// NewClient returns the store at the other end of a connection, which it owns.
func NewClient(conn net.Conn, o ClientOptions) *Client {
	if o.Requests <= 0 {
		o.Requests = defaultRequests
	}
	if o.MemoryBytes == 0 {
		o.MemoryBytes = defaultMemory
	}
	c := &Client{conn: conn, window: semaphore.NewWeighted(max(o.MemoryBytes, MaxObjectBytes)), places: make(chan struct{}, o.Requests), ended: make(chan struct{}), calls: map[uint64]*call{}}
	go c.read()
	return c
}

// read hands answers to those who wait for them, until the connection ends.
func (c *Client) read() {
	in := bufio.NewReaderSize(c.conn, 64<<10)
	for {
		if err := c.readOne(in); err != nil {
			c.end(err)
			return
		}
	}
}

func (c *Client) readOne(in io.Reader) error {
	a, err := readAnswer(in)
	if err != nil {
		return err
	}
	c.mu.Lock()
	w := c.calls[a.id]
	c.mu.Unlock()
	if w == nil {
		return fmt.Errorf("%w: an answer to nothing", ErrProtocol)
	}
	if a.status == statusOK && a.body > w.most {
		return fmt.Errorf("%w: an answer of %d bytes, where %d were asked for", ErrProtocol, a.body, w.most)
	}
	body := make([]byte, a.body)
	if _, err := io.ReadFull(in, body); err != nil {
		return broken(err)
	}
	c.mu.Lock()
	delete(c.calls, a.id)
	c.mu.Unlock()
	w.a, w.body = a, body
	close(w.done)
	c.window.Release(w.need)
	<-c.places
	return nil
}

// end fails all that wait.
func (c *Client) end(err error) {
	c.conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		if isEnd(err) {
			err = fmt.Errorf("%w by the other side", ErrClosed)
		}
		c.err = err
	}
	for id, w := range c.calls {
		delete(c.calls, id)
		w.err = c.err
		close(w.done)
		c.window.Release(w.need) // callers that wait for room have to see the end
	}
	close(c.ended)
}

// do makes one request, whose answer has at most so many bytes.
func (c *Client) do(ctx context.Context, r *request, body []byte, most uint32) (answer, []byte, error) {
	if err := context.Cause(ctx); err != nil {
		return answer{}, nil, err
	}
	select {
	case c.places <- struct{}{}:
	case <-c.ended:
		return answer{}, nil, c.why()
	case <-ctx.Done():
		return answer{}, nil, context.Cause(ctx)
	}
	w := &call{most: most, need: need(r, len(body)), done: make(chan struct{})}
	if err := c.window.Acquire(ctx, w.need); err != nil {
		<-c.places
		return answer{}, nil, context.Cause(ctx)
	}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		c.window.Release(w.need)
		<-c.places
		return answer{}, nil, c.why()
	}
	c.next++
	r.id, r.body = c.next, uint32(len(body))
	c.calls[r.id] = w
	c.mu.Unlock()
	// A frame that was begun is ended, or the connection is.
	hurry := context.AfterFunc(ctx, func() { _ = c.conn.SetWriteDeadline(time.Now().Add(cancelStall)) })
	_ = c.write(r, body) // after an error the reader ends all calls
	hurry()
	stop := context.AfterFunc(ctx, func() { _ = c.write(&request{op: opCancel, id: r.id}, nil) })
	defer stop()
	select {
	case <-w.done:
		return w.a, w.body, w.err
	case <-ctx.Done():
		return answer{}, nil, context.Cause(ctx)
	}
}

// Ended is closed when the connection has ended.
func (c *Client) Ended() <-chan struct{} { return c.ended }

// Err returns why the connection has ended, or nil. If an operation fails and Err then returns nil,
// the error is that of the store, not of the connection.
func (c *Client) Err() error { return c.why() }

func (c *Client) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// write writes a frame. An error ends the connection: a part of the frame may have been written,
// so that the other side would take the next frame for the rest of this one.
func (c *Client) write(r *request, body []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	err := c.conn.SetWriteDeadline(time.Now().Add(maxStall))
	if err == nil {
		frame := net.Buffers{r.encode(), body}
		_, err = frame.WriteTo(c.conn)
	}
	if err != nil {
		c.mu.Lock()
		if c.err == nil && !isEnd(err) {
			c.err = fmt.Errorf("write to the store's process: %w", err)
		}
		c.mu.Unlock()
		c.conn.Close() // the reader ends all calls
	}
	return err
}

// call makes a request about a key, and returns its answer or its error.
func (c *Client) call(ctx context.Context, name string, r *request, body []byte, most uint32) (answer, []byte, error) {
	if err := chunkstore.CheckKey(r.key); err != nil {
		return answer{}, nil, err
	}
	a, out, err := c.do(ctx, r, body, most)
	if err == nil {
		err = failure(&a, out)
	}
	if err != nil {
		return answer{}, nil, fmt.Errorf("%s %s: %w", name, r.key, err)
	}
	return a, out, nil
}

// failure is the error of an answer. Its text is the other side's: it is quoted
// if there is anything in it but letters.
func failure(a *answer, body []byte) error {
	if a.status == statusOK {
		return nil
	}
	s := string(body)
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\ufffd' }) {
		s = fmt.Sprintf("%q", s)
	}
	if sentinel := sentinels[a.status]; sentinel != nil {
		return fmt.Errorf("%w (the store's process says: %s)", sentinel, s)
	}
	return fmt.Errorf("the store's process says: %s", s)
}

// need is what a request takes of the window, on both sides.
func need(r *request, body int) int64 {
	if r.op == opList {
		return maxPageBytes
	}
	return int64(max(body, int(r.limit)))
}

func clamp(n int) uint32 { return uint32(min(max(n, 0), MaxObjectBytes)) }

// Get implements chunkstore.Store.
func (c *Client) Get(ctx context.Context, key string, room []byte, limit int) ([]byte, error) {
	_, b, err := c.call(ctx, "get", &request{op: opGet, key: key, limit: clamp(limit)}, nil, clamp(limit))
	if err != nil || cap(room) < len(b) {
		return b, err
	}
	return append(room[:0], b...), nil
}

// GetRange implements chunkstore.Store.
func (c *Client) GetRange(ctx context.Context, key string, off int64, dst []byte) error {
	if off < 0 || len(dst) > MaxObjectBytes {
		if err := chunkstore.CheckKey(key); err != nil {
			return err
		}
		return fmt.Errorf("get %s: %w: %d bytes from %d on", key, chunkstore.ErrRange, len(dst), off)
	}
	_, b, err := c.call(ctx, "get", &request{op: opRange, key: key, offset: uint64(off), limit: uint32(len(dst))}, nil, uint32(len(dst)))
	if err == nil && len(b) != len(dst) {
		return fmt.Errorf("get %s: %w: a range of %d bytes, not %d", key, ErrProtocol, len(b), len(dst))
	}
	copy(dst, b)
	return err
}

// Put implements chunkstore.Store. Objects have at most MaxObjectBytes.
func (c *Client) Put(ctx context.Context, key string, data []byte) (bool, error) {
	if len(data) > MaxObjectBytes {
		return false, fmt.Errorf("put %s: %w: %d bytes", key, chunkstore.ErrTooLarge, len(data))
	}
	a, _, err := c.call(ctx, "put", &request{op: opPut, key: key}, data, 0)
	return a.flags&flagCreated != 0, err
}

// Replace implements chunkstore.Store. Objects have at most MaxObjectBytes.
func (c *Client) Replace(ctx context.Context, key string, data []byte) error {
	if len(data) > MaxObjectBytes {
		return fmt.Errorf("replace %s: %w: %d bytes", key, chunkstore.ErrTooLarge, len(data))
	}
	_, _, err := c.call(ctx, "replace", &request{op: opReplace, key: key}, data, 0)
	return err
}

// Stat implements chunkstore.Store.
func (c *Client) Stat(ctx context.Context, key string) (chunkstore.Info, error) {
	_, b, err := c.call(ctx, "stat", &request{op: opStat, key: key}, nil, infoBytes+maxKeyBytes+32)
	if err != nil {
		return chunkstore.Info{}, err
	}
	info, rest, err := decodeInfo(b)
	if err == nil && (len(rest) != 0 || info.Key != key) {
		err = fmt.Errorf("%w: it tells of another object", ErrProtocol)
	}
	if err != nil {
		return chunkstore.Info{}, fmt.Errorf("stat %s: %w", key, err)
	}
	return info, nil
}

// Delete implements chunkstore.Store.
func (c *Client) Delete(ctx context.Context, key string) error {
	_, _, err := c.call(ctx, "delete", &request{op: opDelete, key: key}, nil, 0)
	return err
}

// List implements chunkstore.Store, page by page.
func (c *Client) List(ctx context.Context, prefix, after string) iter.Seq2[chunkstore.Info, error] {
	return func(yield func(chunkstore.Info, error) bool) {
		for more := true; more; {
			var page []byte
			err := errors.Join(chunkstore.CheckPrefix(prefix), chunkstore.CheckPrefix(after))
			if err == nil {
				page, more, err = c.page(ctx, prefix, after)
			}
			if err != nil {
				yield(chunkstore.Info{}, err)
				return
			}
			for len(page) > 0 {
				var info chunkstore.Info
				if info, page, err = decodeInfo(page); err == nil && (info.Key <= after || !strings.HasPrefix(info.Key, prefix)) {
					err = fmt.Errorf("%w: it lists %s after %s, of %s", ErrProtocol, info.Key, after, prefix)
				}
				if err != nil {
					yield(chunkstore.Info{}, fmt.Errorf("list %s: %w", prefix, err))
					return
				}
				after = info.Key
				if !yield(info, nil) {
					return
				}
			}
		}
	}
}

func (c *Client) page(ctx context.Context, prefix, after string) (page []byte, more bool, err error) {
	a, page, err := c.do(ctx, &request{op: opList, key: prefix, after: after}, nil, maxPageBytes)
	if err == nil {
		err = failure(&a, page)
	}
	if err == nil && a.flags&flagMore != 0 && len(page) == 0 {
		err = fmt.Errorf("%w: an empty page that is not the last", ErrProtocol)
	}
	if err != nil {
		return nil, false, fmt.Errorf("list %s: %w", prefix, err)
	}
	return page, a.flags&flagMore != 0, nil
}

// Close implements chunkstore.Store: all that waits fails.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.err == nil {
		c.err = ErrClosed
	}
	c.mu.Unlock()
	c.conn.Close()
	<-c.ended
	return nil
}

var _ chunkstore.Store = (*Client)(nil)
