package diff

import (
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// extent records the blocks of differing extents.
func (d *differ) extent(block uint64, a, b []byte) error {
	m := &d.in.ranges
	if err := m.until(block, d.addRange); err != nil {
		return err
	}
	for i, val := range [2][]byte{a, b} {
		if val == nil {
			continue
		}
		e, err := layout.DecodeFileExtent(val)
		if err != nil {
			return err
		}
		m.cur[i] = items.Placed{Block: block, FileExtent: e}
		m.have[i] = true
	}
	return nil
}

// rangeMerger compares two sequences of extents. The extents of one sequence do not overlap. It
// holds at most one of each.
type rangeMerger struct {
	cur  [2]items.Placed
	have [2]bool
	at   [2]uint64 // how far each side is done
}

// until reports the ranges before a block in which the extents differ.
func (m *rangeMerger) until(block uint64, fn func(ByteRange) error) error {
	for m.have[0] || m.have[1] {
		from, to := ^uint64(0), block
		var in [2]bool
		for i := range m.cur {
			if m.have[i] {
				from = min(from, max(m.at[i], m.cur[i].Block))
			}
		}
		if from >= block {
			return nil
		}
		for i := range m.cur {
			if !m.have[i] {
				continue
			}
			if start := max(m.at[i], m.cur[i].Block); start > from {
				to = min(to, start)
			} else {
				in[i] = true
				to = min(to, m.cur[i].End())
			}
		}
		same := in[0] && in[1] && m.cur[0].Nonce == m.cur[1].Nonce &&
			m.cur[0].Addr-m.cur[0].Block*layout.BlockBytes == m.cur[1].Addr-m.cur[1].Block*layout.BlockBytes
		if !same {
			if err := fn(ByteRange{from * layout.BlockBytes, (to - from) * layout.BlockBytes}); err != nil {
				return err
			}
		}
		for i := range m.cur {
			if in[i] {
				m.at[i] = to
				m.have[i] = to < m.cur[i].End()
			}
		}
	}
	return nil
}

// addRange adds a range of the inode. When there are many, it reports them.
func (d *differ) addRange(r ByteRange) error {
	in := &d.in
	if r.Len == 0 {
		return nil
	}
	for n := len(in.out); n > 0 && in.out[n-1].Off+in.out[n-1].Len >= r.Off; n-- {
		last := in.out[n-1]
		r, in.out = ByteRange{min(r.Off, last.Off), max(last.Off+last.Len, r.Off+r.Len) - min(r.Off, last.Off)}, in.out[:n-1]
	}
	if len(in.out) == changeRanges {
		if err := d.tell(Modified); err != nil {
			return err
		}
		in.out = nil
	}
	in.out = append(in.out, r)
	return nil
}
