package copyout

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Fetcher reads the content of many files at once, in the order that is best for where it is.
type Fetcher interface {
	// Add collects the content of a file. If it has too much, it gives some of it to the sink.
	Add(ino vfs.Ino, s Sink) error
	// Flush gives all that was collected to the sink.
	Flush(s Sink) error
}

// Sink takes content. Its methods are called concurrently.
type Sink interface {
	// Write takes a part of a file. What nobody writes is zeros.
	Write(ino vfs.Ino, p []byte, off uint64) error
	// Failed tells that a part of a file cannot be read.
	Failed(ino vfs.Ino, err error)
}

// queue is the files whose content is being fetched. It implements Sink.
type queue struct {
	mu       sync.Mutex
	files    map[vfs.Ino]*pendingFile // changed by the copier alone, while nothing is fetched
	order    []*pendingFile
	done     uint64 // guarded by mu
	total    uint64
	progress func(done, total uint64)
}

// maxPending is the most files that wait for content; each has an open descriptor.
const maxPending = 8192

// pendingLimit is maxPending, or what this process may open.
func pendingLimit() int {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 1
	}
	return int(max(1, min(maxPending, r.Cur/4))) // directories are open as well
}

// enqueue fetches the content of a file, now or later.
func (c *copier) enqueue(p *pendingFile) error {
	ino := p.e.Attr.Ino
	if c.queue.files[ino] != nil { // another name of an inode that claims to have one
		if err := c.flush(); err != nil {
			return err
		}
	}
	c.queue.files[ino] = p
	c.queue.order = append(c.queue.order, p)
	if l := c.links[ino]; l != nil {
		l.pending = p
	}
	err := p.f.Truncate(int64(p.e.Attr.Size))
	if err == nil {
		err = c.opts.Fetch.Add(ino, &c.queue)
	}
	switch {
	case ends(err):
		return err
	case err != nil:
		c.queue.Failed(ino, err)
	}
	if len(c.queue.order) >= pendingLimit() {
		return c.flush()
	}
	return nil
}

// flush fetches what is waiting, and finishes the files.
func (c *copier) flush() error {
	if c.opts.Fetch == nil || len(c.queue.order) == 0 {
		return nil
	}
	if err := c.opts.Fetch.Flush(&c.queue); err != nil {
		return &endError{err}
	}
	order := c.queue.order
	c.queue.order, c.queue.files = nil, map[vfs.Ino]*pendingFile{}
	var full error
	for _, p := range order {
		err := c.finish(p)
		if err != nil {
			c.fail(p.e.Path, err)
		}
		if isFull(err) && full == nil {
			full = fmt.Errorf("%s: %w", p.e.Path, err)
		}
	}
	return full
}

// abandon closes what was not finished because the copy ends.
func (c *copier) abandon() {
	for _, p := range c.queue.order {
		if !p.nameless {
			_ = unix.Unlinkat(p.names[0].dir.fd, p.names[0].name, 0)
		}
		p.f.Close()
		for _, n := range p.names {
			n.dir.e = nil // it stays incomplete
			n.dir.pending--
			_ = c.endDirectory(n.dir)
		}
	}
	c.queue.order = nil
}

// Write implements Sink.
func (q *queue) Write(ino vfs.Ino, b []byte, off uint64) error {
	p := q.files[ino]
	if p == nil {
		return fmt.Errorf("content of inode %d, which was not asked for", ino)
	}
	if err := writeData(p.f, b, off); err != nil {
		if isFull(err) {
			return fmt.Errorf("%s: %w", p.e.Path, err)
		}
		q.Failed(ino, err)
	}
	q.copied(uint64(len(b)))
	return nil
}

// Failed implements Sink.
func (q *queue) Failed(ino vfs.Ino, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if p := q.files[ino]; p != nil && p.err == nil {
		p.err = err
	}
}

// copied counts bytes.
func (q *queue) copied(n uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.done += n; q.progress != nil {
		q.progress(q.done, q.total)
	}
}
