package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A needle is eight bytes of plaintext, as a number. Each file gives one needle for every 4 KiB of
// its content (the volume's smallest sealed unit) and two for its name, if they are distinctive.
// The probability that random bytes match one of 100,000 needles anywhere in 10 GB is about 1e10 ×
// 1e5 / 2^64 < 1e-4.
const (
	needleBytes = 8
	unitBytes   = 4096
	// Eight bytes with fewer distinct values (runs of zeros, small numbers) are not distinctive.
	minDistinct = 6
)

const filterBits = 22 // 512 KiB: fits the processor's cache and is 2 % full with 100,000 needles

// needles is a set of plaintext fragments. It is safe for concurrent filling and for concurrent
// searching.
type needles struct {
	mu     sync.Mutex
	set    map[uint64]struct{} // guarded by mu during filling
	filter []uint64            // bits that may be set; guarded in the same way
}

func newNeedles() *needles {
	return &needles{set: map[uint64]struct{}{}, filter: make([]uint64, 1<<filterBits/64)}
}

func filterBit(x uint64) uint64 { return x * 0x9e3779b97f4a7c15 >> (64 - filterBits) } // Fibonacci hashing

func (n *needles) add(b []byte) bool {
	if !distinctive(b) {
		return false
	}
	x := binary.BigEndian.Uint64(b)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.set[x] = struct{}{}
	n.filter[filterBit(x)/64] |= 1 << (filterBit(x) % 64)
	return true
}

func distinctive(b []byte) bool {
	count := 0
	for i, c := range b[:needleBytes] {
		fresh := 1
		for _, d := range b[:i] {
			if c == d {
				fresh = 0
			}
		}
		count += fresh
	}
	return count >= minDistinct
}

func (n *needles) addName(name string) {
	if len(name) >= needleBytes {
		n.add([]byte(name[:needleBytes]))
		n.add([]byte(name[len(name)-needleBytes:]))
	}
}

// addContent takes one fragment of each unit: the first distinctive one after its middle, because
// files of the same kind have similar beginnings and ends.
func (n *needles) addContent(b []byte) {
	for len(b) >= needleBytes {
		unit := b[:min(unitBytes, len(b))]
		for i := len(unit) / 2; i+needleBytes <= len(unit); i++ {
			if n.add(unit[i : i+needleBytes]) {
				break
			}
		}
		b = b[len(unit):]
	}
}

func (n *needles) len() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.set)
}

// search calls found for every needle in r, at any offset. at is the end of the needle, counted
// from the start of r.
func (n *needles) search(ctx context.Context, r io.Reader, moved func(int64), found func(x uint64, at int64)) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	var x uint64
	var at int64
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		k, err := r.Read(*buf)
		for i, c := range (*buf)[:k] {
			x = x<<8 | uint64(c)
			bit := filterBit(x)
			if n.filter[bit/64]>>(bit%64)&1 != 0 && at+int64(i) >= needleBytes-1 {
				if _, ok := n.set[x]; ok {
					found(x, at+int64(i)+1)
				}
			}
		}
		at += int64(k)
		moved(int64(k))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// searchImage returns an error if the image contains a needle. It reads only allocated ranges, and
// returns their size.
func (n *needles) searchImage(ctx context.Context, path string, moved func(int64)) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var total, pos int64
	for {
		data, err := unix.Seek(int(f.Fd()), pos, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // no more data
			return total, nil
		}
		if err != nil {
			return total, fmt.Errorf("find data in the image: %w", err)
		}
		hole, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return total, fmt.Errorf("find holes in the image: %w", err)
		}
		var hit error
		err = n.search(ctx, io.NewSectionReader(f, data, hole-data), moved, func(x uint64, at int64) {
			if hit == nil {
				hit = fmt.Errorf("the image contains plaintext: %q at offset %d", binary.BigEndian.AppendUint64(nil, x), data+at-needleBytes)
			}
		})
		if err := errors.Join(err, hit); err != nil {
			return total, err
		}
		total += hole - data
		pos = hole
	}
}

// searchFiles is the control: the same search over the plaintext must find every needle.
func (m *manifest) searchFiles(ctx context.Context, root string, moved func(int64)) error {
	n := m.needles
	got := map[uint64]struct{}{}
	found := func(x uint64, _ int64) { got[x] = struct{}{} }
	for rel, e := range m.entries {
		if err := n.search(ctx, strings.NewReader(filepath.Base(rel)), func(int64) {}, found); err != nil {
			return err
		}
		if !e.mode.IsRegular() {
			continue
		}
		f, err := os.Open(filepath.Join(root, rel))
		if err != nil {
			return err
		}
		err = n.search(ctx, f, moved, found)
		f.Close()
		if err != nil {
			return fmt.Errorf("search %s: %w", rel, err)
		}
	}
	if len(got) != n.len() {
		return fmt.Errorf("the search does not work: it finds only %d of %d fragments in the plaintext", len(got), n.len())
	}
	return nil
}
