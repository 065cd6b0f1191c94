package probe

import (
	"bytes"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Limits for devices that cannot report which of their ranges were written.
const (
	// probeWhole is the size up to which the whole device is read.
	probeWhole = 256 << 20
	// probeWindow is read at the beginning and at the end, where nearly all formats have their
	// signature.
	probeWindow = 8 << 20
	// probeSamples is the number of blocks read in between, one at an unpredictable place in each
	// of as many equal parts. Data that fills a thousandth of the device is missed with probability
	// e^(-probeSamples/1000).
	probeSamples = 4096
	// probeAtOnce is the number of concurrent reads. A network device takes about a millisecond for
	// each.
	probeAtOnce = 32
)

// formatData is more than Format writes after the log: trees of a volume with one directory, twice.
const formatData = 1 << 20

// formatPlaces are the ranges that Format writes on a device of this size: headers and roots, and
// trees after the log.
func formatPlaces(size int64) []span {
	const head = layout.HeaderBytes + layout.RootArrayBytes
	data := layout.LogOff + layout.LogBytes(size)
	return []span{{layout.HeaderOffsetA, layout.HeaderOffsetA + head}, {layout.HeaderOffsetB, layout.HeaderOffsetB + head}, {data, data + formatData}}
}

// span is a range of bytes.
type span struct{ from, to int64 }

// prober looks for bytes that are not zero.
type prober struct {
	dev  device.Device
	size int64
	skip []span // ranges of whole blocks that do not count
}

// find returns the offset of a byte that is not zero, -1 if there is none.
func (p *prober) find() (int64, error) {
	if a, ok := p.dev.(device.Allocated); ok {
		off, err := p.findAllocated(a)
		if !errors.Is(err, device.ErrNotSupported) {
			return off, err
		}
	}
	if p.size <= probeWhole {
		return p.findIn(span{0, p.size})
	}
	for _, s := range []span{{0, probeWindow}, {(p.size - probeWindow) &^ (layout.BlockBytes - 1), p.size}} {
		if off, err := p.findIn(s); off >= 0 || err != nil {
			return off, err
		}
	}
	return p.findSampled(append(p.known(), p.secret()...))
}

// findAllocated reads everything that was ever written.
func (p *prober) findAllocated(a device.Allocated) (int64, error) {
	for at := int64(0); at < p.size; {
		from, to, err := a.NextData(at)
		if errors.Is(err, io.EOF) || err == nil && from >= p.size {
			return -1, nil
		}
		if err != nil {
			return -1, err
		}
		from &^= layout.BlockBytes - 1
		if off, err := p.findIn(span{from, min(to, p.size)}); off >= 0 || err != nil {
			return off, err
		}
		at = max(to, at+1)
	}
	return -1, nil
}

// known returns the blocks of signatures.
func (p *prober) known() (offs []int64) {
	for _, m := range append(moving(p.size), marks...) {
		if off, ok := m.at(p.size); ok && off >= probeWindow && off < p.size-probeWindow {
			offs = append(offs, off&^(layout.BlockBytes-1))
		}
	}
	return offs
}

// secret returns random blocks: one in each part of the device, which nobody can predict.
func (p *prober) secret() (offs []int64) {
	var seed [32]byte
	crand.Read(seed[:]) // never fails (crypto/rand)
	rng := rand.New(rand.NewChaCha8(seed))
	blocks := p.size / layout.BlockBytes
	for i := range int64(probeSamples) {
		from, to := blocks*i/probeSamples, blocks*(i+1)/probeSamples
		offs = append(offs, (from+rng.Int64N(to-from))*layout.BlockBytes)
	}
	return offs
}

// findSampled reads single blocks.
func (p *prober) findSampled(offs []int64) (int64, error) {
	found := make([]int64, len(offs))
	var g errgroup.Group
	g.SetLimit(probeAtOnce)
	for i, off := range offs {
		g.Go(func() (err error) {
			found[i], err = p.findIn(span{off, off + layout.BlockBytes})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return -1, err
	}
	for _, off := range found {
		if off >= 0 {
			return off, nil
		}
	}
	return -1, nil
}

// probePiece is the size of one read.
const probePiece = 1 << 20

var zeroPiece = make([]byte, probePiece)

// findIn is find in a range that begins at a block boundary.
func (p *prober) findIn(s span) (int64, error) {
	for _, s := range s.without(p.skip) {
		b := device.AlignedBytes(int(min(probePiece, (s.to-s.from+layout.BlockBytes-1)&^(layout.BlockBytes-1))))
		for off := s.from; off < s.to; {
			n, err := readUpTo(p.dev, b, off)
			if err != nil {
				return -1, err
			}
			n = int(min(int64(n), s.to-off))
			if n == 0 {
				break // the device was truncated
			}
			if !bytes.Equal(b[:n], zeroPiece[:n]) {
				return off + int64(slices.IndexFunc(b[:n], func(c byte) bool { return c != 0 })), nil
			}
			off += int64(n)
		}
	}
	return -1, nil
}

// without returns what is left of a range.
func (s span) without(skip []span) (left []span) {
	for _, k := range skip {
		if k.to <= s.from || k.from >= s.to {
			continue
		}
		if k.from > s.from {
			left = append(left, span{s.from, k.from})
		}
		if s.from = k.to; s.from >= s.to {
			return left
		}
	}
	return append(left, s)
}

// readUpTo reads whole blocks, or fewer at the end of the device.
func readUpTo(dev device.Device, b []byte, off int64) (int, error) {
	n, err := dev.ReadAt(b, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, fmt.Errorf("%w: read at %d: %w", vfs.ErrIO, off, err)
	}
	return n, nil
}
