package layout

import "encoding/binary"

// The position of a restore is opaque. It is stored in pieces, which are KeyPosition items; see
// docs/format.md, "Restoring".
const (
	MaxPosition   = 64 << 10
	PositionPiece = 4 << 10
	positionFixed = 4 // piece 0 begins with the length of the whole position
)

// PositionPieces is the number of pieces of a position. An empty position has one.
func PositionPieces(bytes int) int { return max((bytes+PositionPiece-1)/PositionPiece, 1) }

// AppendPosition encodes piece i of a position.
func AppendPosition(b, position []byte, i int) []byte {
	if i == 0 {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(position)))
	}
	return append(b, position[i*PositionPiece:min((i+1)*PositionPiece, len(position))]...)
}

// DecodePosition appends piece i of a position of total bytes to position. Piece 0 has the total;
// for all others it is given.
func DecodePosition(b, position []byte, i, total int) ([]byte, int, error) {
	if i == 0 {
		if len(b) < positionFixed {
			return nil, 0, corrupt("position: invalid length of %d bytes", len(b))
		}
		n := binary.LittleEndian.Uint32(b)
		if n > MaxPosition {
			return nil, 0, corrupt("position: invalid length %d", n)
		}
		total, b = int(n), b[positionFixed:]
	}
	if want := min(max(total-i*PositionPiece, 0), PositionPiece); len(position) != i*PositionPiece || len(b) != want || i >= PositionPieces(total) {
		return nil, 0, corrupt("position: piece %d has %d bytes instead of %d", i, len(b), want)
	}
	return append(position, b...), total, nil
}
