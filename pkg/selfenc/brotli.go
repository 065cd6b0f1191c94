package selfenc

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/andybalholm/brotli"
)

// The reference's compression.
const (
	brotliQuality = 6
	brotliWindow  = 22
	// brotliPiece is how the reference feeds its encoder. A first write of
	// 1 MiB or more would be taken as a hint of the size and select another
	// match finder, so that chunks would get other names.
	brotliPiece = 4096
	// What one encoder or decoder holds, about.
	brotliEncoderBytes = 16 << 20
	brotliDecoderBytes = 5 << 20
)

// compressBrotli returns the reference's compression of a chunk, with room for
// the cipher's tag behind it.
func compressBrotli(plain []byte, extra int) ([]byte, error) {
	var out bytes.Buffer
	out.Grow(len(plain)/4 + extra + 64)
	w := brotli.NewWriterOptions(&out, brotli.WriterOptions{Quality: brotliQuality, LGWin: brotliWindow})
	for len(plain) > 0 {
		n, err := w.Write(plain[:min(brotliPiece, len(plain))])
		if err != nil {
			return nil, err
		}
		plain = plain[n:]
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// decompressBrotli fills dst with what b decompresses to. It must be exactly
// as long: no more is ever decompressed.
func decompressBrotli(dst, b []byte) error {
	r := brotli.NewReader(bytes.NewReader(b))
	if n, err := io.ReadFull(r, dst); err != nil {
		return fmt.Errorf("%w: after %d of %d bytes: %w", ErrCompression, n, len(dst), err)
	}
	var more [1]byte
	switch n, err := io.ReadFull(r, more[:]); {
	case n > 0:
		return fmt.Errorf("%w: to more than %d bytes", ErrCompression, len(dst))
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("%w: %w", ErrCompression, err)
	}
	return nil
}
