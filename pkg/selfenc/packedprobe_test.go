package selfenc

import (
	"bytes"
	"math"
	"testing"
)

// TestCompressible checks the probe on data of many kinds: it must not miss what zstd would save.
func TestCompressible(t *testing.T) {
	const size = 1 << 20
	data := probeData(t, size)
	page := data["random"][:4096]
	data["equal pages"] = bytes.Repeat(page, size/len(page))
	some := bytes.Clone(data["random"])
	for i := 0; i < size; i += 16384 {
		copy(some[i:], page[:1024]) // a 16th repeats
	}
	data["page headers"] = some
	// What must be found in chunks of 64 KiB, and what must not be tried. The others are free.
	known := map[string]bool{"random": false, "gzip": false, "text": true, "database": true, "half random": true, "random tails": true, "equal pages": true}
	s := newFakePacks(t).sealer(t, PackedOptions{})
	for _, chunk := range []int{PackedMinChunk, PackedChunkBytes, 1 << 18} {
		for kind, plain := range data {
			probed, all := 0, 0
			for at := 0; at < size; at += chunk {
				b := plain[at : at+chunk]
				n := min(chunk, len(s.encoder.EncodeAll(b, nil)))
				all += n
				if !compressible(b) {
					n = chunk
				}
				probed += n
				if compressible(b) != compressible(bytes.Clone(b)) {
					t.Fatal("the probe depends on more than the data")
				}
				if want, ok := known[kind]; ok && chunk >= PackedChunkBytes && want != compressible(b) {
					t.Errorf("%s: chunk of %d at %d: compressible is %t", kind, chunk, at, !want)
				}
			}
			if float64(probed) > 1.01*float64(all) {
				t.Errorf("%s, chunks of %d: %d bytes with the probe, %d without", kind, chunk, probed, all)
			}
		}
	}
	for n := range probeMinBytes + 100 { // of any length
		_ = compressible(page[:min(n, len(page))])
	}
	_ = compressible(make([]byte, probeMinBytes+1))
}

func TestLog2Of(t *testing.T) {
	for n := uint(1); n <= probeBytes; n++ {
		if got, want := log2Of(n), 256*math.Log2(float64(n)); float64(got) > want+1e-9 || float64(got) < want-1.01 {
			t.Fatalf("log2(%d) is %d, not %f", n, got, want)
		}
		if nLog2(n) != uint64(n)*uint64(log2Of(n)) {
			t.Fatalf("the table at %d", n)
		}
	}
}
