package selfenc

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// nullPacks takes everything and keeps nothing.
type nullPacks struct{ stored int64 }

func (n *nullPacks) Add(_ context.Context, r *crypto.ChunkRef, object []byte) (PackedRef, error) {
	n.stored += int64(len(object)) // the benchmarks have one worker where they look at it
	return PackedRef{Ref: *r, Stored: uint32(len(object)), Pack: 1, Offset: PackHeaderBytes}, nil
}

func (n *nullPacks) Open(context.Context, *PackedRef, []byte) ([]byte, error) {
	return nil, ErrNoSuchChunk
}

// probeData returns data of several kinds.
func probeData(t testing.TB, size int) map[string][]byte {
	t.Helper()
	var g golden
	goldenJSON(t, "manifest.json", &g)
	random, text := g.generate("random", size), g.generate("text", size)
	m := map[string][]byte{"random": random, "text": text}
	half := bytes.Clone(random)
	for i := 0; i+8192 <= size; i += 8192 {
		copy(half[i:i+4096], text[i:])
	}
	m["half random"] = half
	tail := bytes.Clone(random)
	for i := 0; i < size; i += 65536 {
		copy(tail[i:min(size, i+32768)], text[i:])
	}
	m["random tails"] = tail
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	for k := uint64(0); b.Len() < size; k++ {
		_, _ = fmt.Fprintf(z, "%d %x %s\n", k, k*0x9e3779b97f4a7c15, text[k*64%uint64(size-64):][:64])
	}
	_ = z.Flush()
	m["gzip"] = b.Bytes()[:size]
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var c []byte
	for k := 0; len(c) < size; k++ {
		c = enc.EncodeAll(database(rand.New(rand.NewPCG(uint64(k), 1)), 1<<20), c)
	}
	m["zstd"] = c[:size]
	m["database"] = database(rand.New(rand.NewPCG(1, 2)), size)
	return m
}

// database returns pages of 8 KiB like those of PostgreSQL: a header, line pointers, free space,
// rows of numbers, hashes and names.
func database(rng *rand.Rand, size int) []byte {
	const page = 8192
	b := make([]byte, size)
	for at := 0; at+page <= size; at += page {
		p := b[at : at+page]
		binary.LittleEndian.PutUint64(p, uint64(at)*77)
		end, line := page, 24
		for end-line > 700 {
			row := fmt.Appendf(nil, "user-%d@example.org", rng.IntN(100000))
			row = binary.LittleEndian.AppendUint64(row, uint64(rng.IntN(1<<30)))
			row = binary.LittleEndian.AppendUint64(row, 1_700_000_000_000_000+rng.Uint64N(1<<40))
			row = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(row, rng.Uint64()), rng.Uint64())
			row = append(make([]byte, 24), row...)
			end -= len(row)
			copy(p[end:], row)
			binary.LittleEndian.PutUint16(p[line:], uint16(end))
			line += 4
		}
	}
	return b
}

// BenchmarkPacked measures what sealing costs for several kinds of data, on one core: with the
// probe, with zstd for every chunk, and without compression, which is crypto.TenantKeys.SealPacked
// alone.
//
//	go test -run '^$' -bench 'Packed$' -benchtime 3x ./pkg/selfenc
func BenchmarkPacked(b *testing.B) {
	const size = 16 << 20
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	data := probeData(b, size)
	for _, kind := range []string{"random", "gzip", "zstd", "database", "half random", "random tails", "text"} {
		plain := data[kind]
		run := func(name string, f func(s *PackedSealer)) {
			b.Run(kind+"/"+name, func(b *testing.B) {
				out := &nullPacks{}
				s, err := NewPackedSealer(testKeys(b, 7), crypto.SuiteXChaCha20Poly1305, out, out, PackedOptions{DedupChunks: -1, Workers: 1})
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				b.SetBytes(size)
				b.ReportAllocs()
				f(s) // fills the pools
				out.stored = 0
				defer cpu(b, size)()
				for b.Loop() {
					f(s)
				}
				b.ReportMetric(float64(out.stored)/float64(b.N)/size, "stored/byte")
			})
		}
		run("update", func(s *PackedSealer) {
			if _, _, err := s.Update(b.Context(), nil, size, AllDirty(size), bytes.NewReader(plain)); err != nil {
				b.Fatal(err)
			}
		})
		run("zstd", func(s *PackedSealer) {
			buf, object := make([]byte, 0, 80<<10), make([]byte, 0, 80<<10)
			for at := 0; at < size; at += s.chunk {
				chunk := plain[at : at+s.chunk]
				comp, payload := uint8(compZstd), s.encoder.EncodeAll(chunk, buf)
				if len(payload) >= len(chunk)-len(chunk)/compMinSaving {
					comp = compNone
				}
				r, o, err := s.keys.SealPacked(s.suite, crypto.ChunkData, comp, chunk, payload, object)
				if err != nil {
					b.Fatal(err)
				}
				_, _ = s.out.Add(b.Context(), &r, o)
			}
		})
		run("none", func(s *PackedSealer) {
			object := make([]byte, 0, 80<<10)
			for at := 0; at < size; at += s.chunk {
				r, o, err := s.keys.SealPacked(s.suite, crypto.ChunkData, compNone, plain[at:at+s.chunk], nil, object)
				if err != nil {
					b.Fatal(err)
				}
				_, _ = s.out.Add(b.Context(), &r, o)
			}
		})
		b.Run(kind+"/probe", func(b *testing.B) {
			b.SetBytes(size)
			yes := 0
			for b.Loop() {
				yes = 0
				for at := 0; at < size; at += PackedChunkBytes {
					if compressible(plain[at : at+PackedChunkBytes]) {
						yes++
					}
				}
			}
			b.ReportMetric(float64(yes)/(size/PackedChunkBytes), "compressible")
		})
	}
}
