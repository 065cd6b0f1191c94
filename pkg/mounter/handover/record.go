package handover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter/pacing"
)

// kind says what a record is.
type kind uint8

const (
	kindEnd       kind = 0
	kindVMK       kind = 1 // 32 bytes, of the epoch
	kindTenant    kind = 2 // 32 bytes, of the epoch
	kindKEK       kind = 3 // 32 bytes
	kindRecipient kind = 4 // the public half of a recovery key, as text
	kindState     kind = 5 // a pinned.StateRef. Epoch 0: the job's; 1: the base's
	kindIdentity  kind = 7 // of the volume: see appendIdentity
	kindLoad      kind = 6 // requests in progress u32 ‖ for each kind: requests u64 ‖ microseconds u64
)

const (
	headBytes  = 8
	maxRecords = 64
	maxState   = 2048
	maxText    = 3000
	loadBytes  = 4 + 16*pacing.Kinds
)

// ErrFormat is the error of a message that is not as the package comment says.
var ErrFormat = errors.New("malformed keys")

// writeRecord writes b, which may be a key in locked memory: it is not copied.
func writeRecord(w io.Writer, k kind, epoch uint32, b []byte) error {
	head := [headBytes]byte{0: byte(k)}
	binary.LittleEndian.PutUint16(head[2:], uint16(len(b)))
	binary.LittleEndian.PutUint32(head[4:], epoch)
	if _, err := w.Write(head[:]); err != nil {
		return err
	}
	if len(b) == 0 {
		return nil
	}
	_, err := w.Write(b)
	return err
}

// record is the head of a record.
type record struct {
	kind  kind
	size  int
	epoch uint32
}

func readHead(r io.Reader) (h record, err error) {
	var b [headBytes]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return h, err
	}
	h = record{kind(b[0]), int(binary.LittleEndian.Uint16(b[2:])), binary.LittleEndian.Uint32(b[4:])}
	if b[1] != 0 || h.size > h.kind.limit() {
		return h, fmt.Errorf("%w: a record of kind %d with %d bytes", ErrFormat, b[0], h.size)
	}
	return h, nil
}

// limit is how many bytes a record has at most.
func (k kind) limit() int {
	switch k {
	case kindVMK, kindTenant, kindKEK:
		return crypto.KeyBytes
	case kindRecipient:
		return maxText
	case kindState:
		return maxState
	case kindIdentity:
		return identityBytes
	case kindLoad:
		return loadBytes
	}
	return 0
}

// readKey reads the bytes of a record into locked memory.
func readKey(r io.Reader, h record) (k *crypto.Key, err error) {
	if h.size != crypto.KeyBytes {
		return nil, fmt.Errorf("%w: a key of %d bytes", ErrFormat, h.size)
	}
	err = crypto.ReadSecret(io.LimitReader(r, crypto.KeyBytes), crypto.KeyBytes, func(b []byte) error {
		if len(b) < crypto.KeyBytes {
			return io.ErrUnexpectedEOF
		}
		k, err = crypto.NewKey(b)
		return err
	})
	return k, err
}

func readBytes(r io.Reader, h record) ([]byte, error) {
	b := make([]byte, h.size)
	_, err := io.ReadFull(r, b)
	return b, err
}

// cut makes the end of a message that is not complete an error of its own.
func cut(err error, who string) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s ended before all keys were sent", who)
	}
	return err
}
