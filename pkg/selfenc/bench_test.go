package selfenc

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// benchBytes is the size of the encrypted data: more than three chunks in every encoding, so that
// the map is included.
const benchBytes = 24 << 20

// cpu measures the processor time of all threads. Other programs on the machine influence it less
// than the clock.
func cpu(b *testing.B, perRound int64) (end func()) {
	b.Helper()
	used := func() (d time.Duration) {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	start := used()
	return func() {
		b.ReportMetric(float64(perRound)*float64(b.N)/1e6/(used()-start).Seconds(), "MB/cpu-s")
	}
}

// countingStore keeps chunks and counts their bytes.
type countingStore struct {
	memoryStore
	stored atomic.Int64
}

func (s *countingStore) PutChunk(ctx context.Context, name Name, data []byte) error {
	s.stored.Add(int64(len(data)))
	return s.memoryStore.PutChunk(ctx, name, data)
}

func benchData(b *testing.B) map[string][]byte {
	var g golden
	goldenJSON(b, "manifest.json", &g)
	return map[string][]byte{"random": g.generate("random", benchBytes), "text": g.generate("text", benchBytes)}
}

// BenchmarkEncodings measures all encodings in one run, on one core and on all cores: MB/s of
// plaintext, and stored bytes per byte.
//
//	go test -run '^$' -bench Encodings -benchtime 3x ./pkg/selfenc
func BenchmarkEncodings(b *testing.B) {
	data := benchData(b)
	cores := []int{1}
	if n := runtime.GOMAXPROCS(0); n > 1 {
		cores = append(cores, n)
	}
	for _, kind := range []string{"random", "text"} {
		for _, workers := range cores {
			for _, e := range []Encoding{SE31, SE36, V2} {
				name := fmt.Sprintf("%s/%s/cores=%d", e, kind, workers)
				b.Run("encrypt/"+name, func(b *testing.B) {
					defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(workers))
					b.SetBytes(benchBytes)
					defer cpu(b, benchBytes)()
					for b.Loop() {
						s := &countingStore{}
						benchEncrypt(b, e, s, data[kind], workers)
						b.ReportMetric(float64(s.stored.Load())/benchBytes, "stored/byte")
					}
				})
				b.Run("decrypt/"+name, func(b *testing.B) {
					defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(workers))
					s := &countingStore{}
					r := benchEncrypt(b, e, s, data[kind], workers)
					b.SetBytes(benchBytes)
					defer cpu(b, benchBytes)()
					for b.Loop() {
						if err := r.Verify(b.Context()); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

func benchEncrypt(b *testing.B, e Encoding, s ChunkStore, data []byte, workers int) *Reader {
	b.Helper()
	o := Options{Workers: workers}
	if e == V2 {
		v := testSealer(b, s, o)
		obj, err := v.Encrypt(b.Context(), bytes.NewReader(data))
		if err != nil {
			b.Fatal(err)
		}
		r, err := v.Open(obj)
		if err != nil {
			b.Fatal(err)
		}
		return r
	}
	m, err := EncryptTo(b.Context(), e, s, bytes.NewReader(data), o)
	if err != nil {
		b.Fatal(err)
	}
	r, err := Open(b.Context(), e, s, m, o)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

// BenchmarkStages measures each step for a chunk of 1 MiB, on one core.
func BenchmarkStages(b *testing.B) {
	data := benchData(b)
	for _, kind := range []string{"random", "text"} {
		plain := data[kind][:1<<20]
		stage := func(name string, f func()) {
			b.Run(kind+"/"+name, func(b *testing.B) {
				b.SetBytes(int64(len(plain)))
				defer cpu(b, int64(len(plain)))()
				for b.Loop() {
					f()
				}
			})
		}
		s := testSealer(b, &memoryStore{}, Options{})
		comp, err := compressBrotli(plain, 0)
		if err != nil {
			b.Fatal(err)
		}
		packed := s.encoder.EncodeAll(plain, nil)
		link := &crypto.ChunkLink{}
		buf := make([]byte, 0, 2<<20)
		out := make([]byte, len(plain))
		must := func(err error) {
			if err != nil {
				b.Fatal(err)
			}
		}
		for _, e := range []Encoding{SE31, SE36} {
			stage(e.String()+"/hash", func() { e.scheme().Hash(plain) })
			stage(e.String()+"/seal", func() { _, err := e.scheme().Seal(buf, plain, link); must(err) })
		}
		stage("se/brotli", func() { _, err := compressBrotli(plain, 0); must(err) })
		stage("se/unbrotli", func() { must(decompressBrotli(out, comp)) })
		stage("v2/zstd", func() { s.encoder.EncodeAll(plain, buf[:0]) })
		stage("v2/unzstd", func() { _, err := s.decoder.DecodeAll(packed, out[:0]); must(err) })
		stage("v2/id", func() { _, err := s.keys.ChunkID(crypto.ChunkData, plain); must(err) })
		stage("v2/name", func() { crypto.ObjectName(plain) })
		for _, suite := range []crypto.Suite{crypto.SuiteXChaCha20Poly1305, crypto.SuiteXAES256GCM} {
			stage(fmt.Sprintf("v2/id+seal+name/%s", suite), func() {
				_, _, err := s.keys.SealChunk(suite, crypto.ChunkData, compNone, plain, nil, buf)
				must(err)
			})
		}
	}
}
