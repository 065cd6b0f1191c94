package txn

import (
	"errors"
	"sync"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// FrameData is the size of the data in one log frame.
const FrameData = 4032

// Flags of a frame.
const (
	frameFirst = 1
	frameLast  = 2
)

// Errors of the log.
var (
	// ErrLogFull means that a commit is needed.
	ErrLogFull = errors.New("log is full")
	// ErrLogDamaged means that acknowledged records cannot be read. The volume must not be mounted
	// without them.
	ErrLogDamaged = errors.New("log is damaged")
)

// Log is the sealed log of one mount: a ring of frames on the device.
// One caller at a time appends (the volume's syncer).
type Log struct {
	s      *Store
	mount  [16]byte
	frames uint64

	mu    sync.Mutex
	next  uint64 // seq of the next frame
	acked uint64 // frames below are durable
	tail  uint64 // oldest frame that one of the two newest roots needs
}

// NewLog starts the log of a mount: its first frame is 0.
func NewLog(s *Store, mount [16]byte, frames uint64) *Log {
	return &Log{s: s, mount: mount, frames: frames}
}

// Next is the number of the next frame: q of a root that covers all frames before it.
func (l *Log) Next() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next
}

// Trim frees the frames below seq.
func (l *Log) Trim(seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = max(l.tail, seq)
}

// Room is the number of bytes that one record may have now.
func (l *Log) Room() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int(l.frames-(l.next-l.tail)) * FrameData
}

// Append seals one record, split into frames, and writes the frames in order. base is the
// generation of the newest durable root. The record is durable after the next barrier, which the
// caller issues and reports with Acked.
func (l *Log) Append(data []byte, base uint64) error {
	n := uint64((len(data) + FrameData - 1) / FrameData)
	l.mu.Lock()
	seq, acked := l.next, l.acked
	if n > l.frames-(l.next-l.tail) {
		l.mu.Unlock()
		return ErrLogFull
	}
	l.next += n
	l.mu.Unlock()

	buf := GetBuffer()
	defer PutBuffer(buf)
	payload := make([]byte, crypto.FrameBytes)
	keys := l.s.Keys.Newest()
	fill, at := 0, seq%l.frames // frames in buf; place of the first one
	flush := func() error {
		if fill == 0 {
			return nil
		}
		err := l.s.Write((*buf)[:fill*layout.BlockBytes], layout.LogOff+at*layout.BlockBytes)
		fill = 0
		return err
	}
	for i := range n {
		part := data[i*FrameData : min(uint64(len(data)), (i+1)*FrameData)]
		var flags uint8
		if i == 0 {
			flags |= frameFirst
		}
		if i == n-1 {
			flags |= frameLast
		}
		place := (seq + i) % l.frames
		if fill == WriteBytes/layout.BlockBytes || place == 0 {
			if err := flush(); err != nil {
				return err
			}
		}
		if fill == 0 {
			at = place
		}
		f := crypto.FramePayload{Acked: acked, Base: base, Flags: flags, Data: part}
		if err := f.Encode(payload); err != nil {
			return err
		}
		dst := (*buf)[fill*layout.BlockBytes : (fill+1)*layout.BlockBytes]
		if err := keys.SealFrame(l.mount, seq+i, payload, dst); err != nil {
			return err
		}
		fill++
	}
	return flush()
}

// Wipe overwrites those of n places in the log, beginning with from, that no root needs. Nobody may
// append meanwhile.
func (l *Log) Wipe(from, n uint64) error {
	l.mu.Lock()
	next, tail := l.next, l.tail
	l.mu.Unlock()
	zero := device.AlignedBytes(WriteBytes)
	live := func(place uint64) bool {
		return next > tail && (place+l.frames-tail%l.frames)%l.frames < next-tail
	}
	for at := from; at < min(from+n, l.frames); {
		count := uint64(0)
		for at+count < min(from+n, l.frames) && !live(at+count) && count < WriteBytes/layout.BlockBytes {
			count++
		}
		if count > 0 {
			if err := l.s.Write(zero[:count*layout.BlockBytes], layout.LogOff+at*layout.BlockBytes); err != nil {
				return err
			}
		}
		at += max(count, 1)
	}
	return nil
}

// Frames is the number of places in the log.
func (l *Log) Frames() uint64 { return l.frames }

// Acked records that a barrier followed all frames below seq.
func (l *Log) Acked(seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked = max(l.acked, seq)
}
