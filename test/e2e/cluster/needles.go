package cluster

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"slices"
)

// Needles are keys, in every form in which they might be written, to be searched for in data.
type Needles struct {
	byHead map[uint64][]needle
	keys   map[string]bool
	long   int // length of the longest one
}

type needle struct {
	name  string
	bytes []byte
}

// Len returns the number of keys.
func (n *Needles) Len() int { return len(n.keys) }

// AddKey adds a key as a Secret holds it: 64 hexadecimal digits or 32 bytes. The search finds it as
// bytes, as hexadecimal digits in either case, and in base64 of each of these, at any offset in a
// longer text.
func (n *Needles) AddKey(name string, held []byte) {
	raw := bytes.TrimSpace(held)
	if b, err := hex.DecodeString(string(raw)); err == nil {
		raw = b
	}
	if len(raw) < 16 || n.keys[string(raw)] {
		return
	}
	if n.keys == nil {
		n.keys, n.byHead = map[string]bool{}, map[uint64][]needle{}
	}
	n.keys[string(raw)] = true
	digits := []byte(hex.EncodeToString(raw))
	for _, form := range [][]byte{raw, digits, bytes.ToUpper(digits)} {
		n.add(name, form)
		for offset := range 3 {
			n.add(name, middle(form, offset))
		}
	}
}

// middle returns the part of form's base64 that is the same in every text in which form begins
// offset bytes after a multiple of three.
func middle(form []byte, offset int) []byte {
	skip := (3 - offset) % 3
	form = form[skip:]
	return []byte(base64.StdEncoding.EncodeToString(form[:len(form)/3*3]))
}

func (n *Needles) add(name string, b []byte) {
	head := binary.LittleEndian.Uint64(b)
	n.byHead[head] = append(n.byHead[head], needle{name, b})
	n.long = max(n.long, len(b))
}

// In returns the names of the keys that are in b.
func (n *Needles) In(b []byte) []string {
	var found []string
	for i := 0; i+8 <= len(b); i++ {
		for _, x := range n.byHead[binary.LittleEndian.Uint64(b[i:])] {
			if bytes.HasPrefix(b[i:], x.bytes) && !slices.Contains(found, x.name) {
				found = append(found, x.name)
			}
		}
	}
	return found
}

// InFile returns the names of the keys that are in a file of any size.
func (n *Needles) InFile(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var found []string
	buf, kept := make([]byte, 1<<20), 0
	for {
		m, err := io.ReadFull(f, buf[kept:])
		for _, name := range n.In(buf[:kept+m]) {
			if !slices.Contains(found, name) {
				found = append(found, name)
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return found, nil
		}
		if err != nil {
			return found, err
		}
		kept = copy(buf, buf[kept+m-min(n.long, kept+m):kept+m])
	}
}
