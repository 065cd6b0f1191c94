package layout

import (
	"bytes"
	"testing"
)

func TestPosition(t *testing.T) {
	for _, n := range []int{0, 1, PositionPiece - 1, PositionPiece, PositionPiece + 1, MaxPosition} {
		want := bytes.Repeat([]byte{7}, n)
		var got []byte
		total := 0
		for i := range PositionPieces(n) {
			b := AppendPosition(nil, want, i)
			if len(b) > MaxValue {
				t.Errorf("%d bytes: a value of %d bytes", n, len(b))
			}
			var err error
			if got, total, err = DecodePosition(b, got, i, total); err != nil {
				t.Fatalf("%d bytes, piece %d: %v", n, i, err)
			}
		}
		if !bytes.Equal(got, want) || total != n {
			t.Errorf("%d bytes: got %d of %d", n, len(got), total)
		}
		if _, _, err := DecodePosition(nil, got, PositionPieces(n), total); err == nil {
			t.Errorf("%d bytes: one piece too many", n)
		}
	}
	if _, _, err := DecodePosition([]byte{1, 0, 1, 0}, nil, 0, 0); err == nil {
		t.Error("a position of 65537 bytes")
	}
}

func FuzzDecodePosition(f *testing.F) {
	f.Add(AppendPosition(nil, make([]byte, 5000), 0), AppendPosition(nil, make([]byte, 5000), 1))
	f.Add([]byte{0, 0, 0, 0}, []byte{})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		p, total, err := DecodePosition(a, nil, 0, 0)
		if err != nil {
			return
		}
		if p, _, err = DecodePosition(b, p, 1, total); err == nil && total <= len(p) {
			same(t, a, AppendPosition(nil, p, 0))
			same(t, b, AppendPosition(nil, p, 1))
		}
	})
}
