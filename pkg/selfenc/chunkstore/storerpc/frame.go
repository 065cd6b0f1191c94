package storerpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
)

// ErrProtocol is about a peer that does not speak this protocol.
var ErrProtocol = errors.New("the store's connection does not keep to its protocol")

// MaxObjectBytes is the most that an object has which passes through.
const MaxObjectBytes = 32 << 20

type op uint8

const (
	opGet op = 1 + iota
	opRange
	opPut
	opReplace
	opStat
	opDelete
	opList
	opCancel
	opLock
	opEnd
)

const (
	requestBytes = 32
	answerBytes  = 24
	maxKeyBytes  = 512
	maxTextBytes = 1 << 10
	// pageItems is how many objects one answer to a List has.
	pageItems    = 1000
	maxPageBytes = pageItems * (2 + maxKeyBytes + 16)
)

// request is a request without its body.
type request struct {
	op     op
	id     uint64
	key    string
	after  string // of List
	offset uint64
	limit  uint32
	body   uint32
}

// encode returns the frame without the body.
func (r *request) encode() []byte {
	b := make([]byte, 0, requestBytes+len(r.key)+len(r.after))
	b = append(b, byte(r.op), 0)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(r.key)))
	b = append(binary.LittleEndian.AppendUint16(b, uint16(len(r.after))), 0, 0)
	b = binary.LittleEndian.AppendUint64(b, r.id)
	b = binary.LittleEndian.AppendUint64(b, r.offset)
	b = binary.LittleEndian.AppendUint32(b, r.limit)
	b = binary.LittleEndian.AppendUint32(b, r.body)
	return append(append(b, r.key...), r.after...)
}

// readRequest reads a request up to its body. An io.EOF is the end.
func readRequest(in io.Reader) (r request, err error) {
	var head [requestBytes]byte
	if n, err := io.ReadFull(in, head[:]); n > 0 && err != nil {
		return r, broken(err)
	} else if err != nil {
		return r, err
	}
	r = request{op: op(head[0]), id: binary.LittleEndian.Uint64(head[8:]), offset: binary.LittleEndian.Uint64(head[16:]),
		limit: binary.LittleEndian.Uint32(head[24:]), body: binary.LittleEndian.Uint32(head[28:])}
	key, after := int(binary.LittleEndian.Uint16(head[2:])), int(binary.LittleEndian.Uint16(head[4:]))
	hasBody := r.op == opPut || r.op == opReplace || r.op == opLock && r.body == lockBytes
	switch {
	case r.op == 0 || r.op >= opEnd || head[1] != 0 || head[6] != 0 || head[7] != 0:
		return r, fmt.Errorf("%w: request %d", ErrProtocol, r.op)
	case key > maxKeyBytes || after > maxKeyBytes || after != 0 && r.op != opList || key != 0 && r.op == opCancel:
		return r, fmt.Errorf("%w: keys of %d and %d bytes", ErrProtocol, key, after)
	case r.body > MaxObjectBytes || r.body != 0 && !hasBody:
		return r, fmt.Errorf("%w: a body of %d bytes", ErrProtocol, r.body)
	case r.limit > MaxObjectBytes || r.limit != 0 && r.op != opGet && r.op != opRange || r.offset != 0 && r.op != opRange:
		return r, fmt.Errorf("%w: %d bytes from %d on", ErrProtocol, r.limit, r.offset)
	}
	keys := make([]byte, key+after)
	if _, err := io.ReadFull(in, keys); err != nil {
		return r, broken(err)
	}
	r.key, r.after = string(keys[:key]), string(keys[key:])
	return r, nil
}

// broken is err of a read in the middle of a frame.
func broken(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: a frame breaks off", ErrProtocol)
	}
	return err
}

// status is how a request ended.
type status uint8

// The statuses; errors by their sentinels.
const (
	statusOK status = iota
	statusOther
	statusNotFound
	statusTooLarge
	statusKey
	statusRange
	statusDenied
	statusLocked
	statusEnd
)

var sentinels = map[status]error{
	statusNotFound: chunkstore.ErrNotFound, statusTooLarge: chunkstore.ErrTooLarge, statusKey: chunkstore.ErrKey,
	statusRange: chunkstore.ErrRange, statusDenied: chunkstore.ErrDenied, statusLocked: chunkstore.ErrLocked,
}

const (
	flagCreated  = 1 // of Put
	flagExtended = 1 // of Lock
	flagMore     = 2 // of List: the page is not the last
)

// answer is an answer without its body.
type answer struct {
	status status
	flags  uint8
	id     uint64
	body   uint32
}

func (a *answer) encode() []byte {
	b := append(make([]byte, 0, answerBytes), byte(a.status), a.flags, 0, 0, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, a.id)
	return append(binary.LittleEndian.AppendUint32(b, a.body), 0, 0, 0, 0)
}

// readAnswer reads an answer up to its body. An io.EOF is the end.
func readAnswer(in io.Reader) (a answer, err error) {
	var head [answerBytes]byte
	if n, err := io.ReadFull(in, head[:]); n > 0 && err != nil {
		return a, broken(err)
	} else if err != nil {
		return a, err
	}
	a = answer{status(head[0]), head[1], binary.LittleEndian.Uint64(head[8:]), binary.LittleEndian.Uint32(head[16:])}
	if a.status >= statusEnd || a.flags&^(flagCreated|flagMore) != 0 || a.status != statusOK && (a.flags != 0 || a.body > maxTextBytes) ||
		[6]byte(head[2:8]) != [6]byte{} || [4]byte(head[20:]) != [4]byte{} {
		return a, fmt.Errorf("%w: an answer of status %d and %d bytes", ErrProtocol, a.status, a.body)
	}
	return a, nil
}

// A request about a lock without a key asks for the lock period, in ns. One with a key has enough i64 ‖
// to i64 in ns since 1970; if enough is 0, the lock is read. Its answer is until when it is locked, i64.
const (
	lockBytes   = 16
	lockedBytes = 8
)

func appendTime(b []byte, t time.Time) []byte {
	ns := int64(0)
	if !t.IsZero() { // whose UnixNano is some other time
		ns = t.UnixNano()
	}
	return binary.LittleEndian.AppendUint64(b, uint64(ns))
}

// timeIn reads what appendTime wrote.
func timeIn(b []byte) time.Time {
	if ns := int64(binary.LittleEndian.Uint64(b)); ns != 0 {
		return time.Unix(0, ns)
	}
	return time.Time{}
}

// An object's information: key u16 ‖ bytes i64 ‖ modified i64 ‖ has hash u8 ‖ key ‖ hash. modified is 0
// if the store does not say when.
const infoBytes = 2 + 8 + 8 + 1

func appendInfo(b []byte, i *chunkstore.Info) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(len(i.Key)))
	b = binary.LittleEndian.AppendUint64(b, uint64(i.Bytes))
	b = appendTime(b, i.Modified)
	if i.SHA256 == nil {
		return append(append(b, 0), i.Key...)
	}
	return append(append(append(b, 1), i.Key...), i.SHA256[:]...)
}

// decodeInfo reads what appendInfo wrote, and returns what follows.
func decodeInfo(b []byte) (i chunkstore.Info, rest []byte, err error) {
	bad := fmt.Errorf("%w: what it says of an object", ErrProtocol)
	if len(b) < infoBytes {
		return i, nil, bad
	}
	n, hash := int(binary.LittleEndian.Uint16(b)), b[18]
	i.Bytes = int64(binary.LittleEndian.Uint64(b[2:]))
	i.Modified = timeIn(b[10:])
	b = b[infoBytes:]
	if hash > 1 || i.Bytes < 0 || n > maxKeyBytes || len(b) < n+32*int(hash) {
		return i, nil, bad
	}
	i.Key = string(b[:n])
	if err := chunkstore.CheckKey(i.Key); err != nil {
		return i, nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if b = b[n:]; hash == 1 {
		sum := [32]byte(b)
		i.SHA256, b = &sum, b[32:]
	}
	return i, b, nil
}
