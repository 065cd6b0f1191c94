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
	// brotliPiece is the size of the writes to the encoder, as in the reference implementation. The
	// encoder takes a first write of 1 MiB or more as a hint of the size, and selects another match
	// finder. Then chunks would get other names.
	brotliPiece = 4096
	// The approximate memory of an encoder or decoder.
	brotliEncoderBytes = 16 << 20
	brotliDecoderBytes = 5 << 20
)

// compressBrotli returns the compressed form of a chunk, as in the reference implementation, with
// capacity for the cipher's tag.
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

// decompressBrotli decompresses b to dst. The result must have exactly the length of dst. It never
// decompresses more.
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
