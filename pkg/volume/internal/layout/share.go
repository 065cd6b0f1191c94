package layout

import "encoding/binary"

// KeyShare is the type of the keys of TreeShares. Obj is 0, Sub the first block
// of the run.
const KeyShare = 0x01

// ShareBytes is the stored size of a Share.
const ShareBytes = 8

// Share is the value of a KeyShare item: a run of blocks in one region. Each block has Extra
// references beyond the first. Adjacent runs have different counts.
type Share struct {
	Count uint32 // blocks
	Extra uint32
}

// Append encodes the item.
func (s Share) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, s.Count)
	return binary.LittleEndian.AppendUint32(b, s.Extra)
}

// DecodeShare decodes a whole item value whose key has the given sub.
func DecodeShare(sub uint64, b []byte) (Share, error) {
	if len(b) != ShareBytes {
		return Share{}, corrupt("shared run: invalid length of %d bytes", len(b))
	}
	s := Share{Count: binary.LittleEndian.Uint32(b), Extra: binary.LittleEndian.Uint32(b[4:])}
	switch {
	case s.Count == 0 || uint64(s.Count) > RegionBlocks-sub%RegionBlocks:
		return Share{}, corrupt("shared run: invalid range of %d blocks from block %d", s.Count, sub)
	case s.Extra == 0:
		return Share{}, corrupt("shared run from block %d: no extra references", sub)
	}
	return s, nil
}
