package volume

import (
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// WriteAt loads content of a file whose Inode was given. Every byte has its final value: parts may
// come in any order, from several goroutines, and repeatedly, but a byte never has two values.
// Whole blocks of zeros become holes. Nothing else of the inode changes.
func (l *Loader) WriteAt(ino uint64, p []byte, off uint64) error {
	if l.pending.Load() == ino {
		l.mu.Lock()
		err := l.usable()
		if err == nil && l.pending.Load() == ino {
			err = l.settle()
		}
		l.mu.Unlock()
		if err != nil {
			return l.explain(err)
		}
	}
	return l.explain(l.write(ino, p, off))
}

func (l *Loader) write(ino uint64, p []byte, off uint64) error {
	if off > layout.MaxFileBytes || uint64(len(p)) > layout.MaxFileBytes-off {
		return invalidFact("inode %d has %d bytes of data at %d", ino, len(p), off)
	}
	for len(p) > 0 {
		n := min(uint64(len(p)), maxWrite-off%maxWrite)
		if spans := dataSpans(p[:n], off); len(spans) > 0 {
			if err := l.writeSpans(ino, p[:n], off, spans); err != nil {
				return err
			}
		}
		p, off = p[n:], off+n
	}
	return nil
}

// dataSpans returns the ranges of p, which begins at byte off of a file, that are not whole blocks
// of zeros.
func dataSpans(p []byte, off uint64) (spans []logical.Range) {
	for at := uint64(0); at < uint64(len(p)); {
		n := min(pageBytes-(off+at)%pageBytes, uint64(len(p))-at)
		switch last := len(spans) - 1; {
		case isZero(p[at : at+n]):
		case last >= 0 && spans[last].Off+spans[last].Len == off+at:
			spans[last].Len += n
		default:
			spans = append(spans, logical.Range{Off: off + at, Len: n})
		}
		at += n
	}
	return spans
}

// isZero reports whether all bytes are zero.
func isZero(p []byte) bool {
	for len(p) >= 8 {
		if *(*[8]byte)(p) != [8]byte{} {
			return false
		}
		p = p[8:]
	}
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// writeSpans writes ranges of p, which begins at byte off, as one change.
func (l *Loader) writeSpans(ino uint64, p []byte, off uint64, spans []logical.Range) error {
	v := l.v
	pages := 0
	for _, s := range spans {
		pages += int((s.Off+s.Len+pageBytes-1)/pageBytes - s.Off/pageBytes)
	}
	return v.operate(reservation{pages: pages, nodes: opNodes}, func(k *locks) error {
		in, err := k.inode(vfs.Ino(ino))
		if isStale(err) {
			return invalidFact("data of inode %d, which does not exist", ino)
		}
		if err != nil {
			return err
		}
		k.lock(in)
		if end := off + uint64(len(p)); !in.isReg() || end > in.attr.Size {
			return invalidFact("inode %d of mode %#o and %d bytes has data up to %d", ino, in.attr.Mode, in.attr.Size, end)
		}
		defer v.data.unload(in)
		for _, s := range spans {
			if err := v.data.prepareWrite(in, s.Off, s.Off+s.Len); err != nil {
				return err
			}
		}
		return v.inGate(func() error {
			v.data.unpackInline(in, in.attr.Size)
			for _, s := range spans {
				for b := p[s.Off-off:][:s.Len]; len(b) > 0; {
					from := s.Off % bufferBytes
					n := min(bufferBytes-from, uint64(len(b)))
					v.data.writeBuffer(in, s.Off/bufferBytes, int(from), b[:n], 0)
					b, s.Off = b[n:], s.Off+n
				}
			}
			return nil
		})
	})
}
