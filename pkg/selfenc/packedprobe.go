package selfenc

import (
	"encoding/binary"
	"math/bits"
)

const (
	// Shorter data is compressed without a probe.
	probeMinBytes = 8 << 10
	// The probe looks at so many samples, spread evenly.
	probeSamples = 16
	// The bytes of a sample, and of all samples.
	probeSampleBytes = 256
	probeBytes       = probeSamples * probeSampleBytes
	// probeLimit is the entropy of the samples, in 1/256 bits a byte, from which on compression is
	// not tried. So many random bytes have 7.955 bits a byte; data of which a sixteenth is zeros has
	// 7.8.
	probeLimit = 7*256 + 236 // 7.92
)

// compressible estimates whether compression saves space. It depends on the data alone, so equal
// chunks are compressed alike. It knows the frequency of bytes, and blocks that repeat at a
// distance of a multiple of len(b)/16, such as database pages. It misses other repetitions of bytes
// that are evenly distributed.
func compressible(b []byte) bool {
	if len(b) < probeMinBytes {
		return true
	}
	var count [4][256]uint16 // four tables, so that equal bytes do not wait for each other
	var first [probeSamples]uint64
	stride := len(b) / probeSamples
	for i := range probeSamples {
		p := b[i*stride:][:probeSampleBytes]
		first[i] = binary.LittleEndian.Uint64(p)
		for k := 0; k < probeSampleBytes; k += 4 {
			q := p[k : k+4 : k+4]
			count[0][q[0]]++
			count[1][q[1]]++
			count[2][q[2]]++
			count[3][q[3]]++
		}
		for k := range i {
			if first[k] == first[i] {
				return true
			}
		}
	}
	// Entropy is log2(n) - Σ count·log2(count)/n.
	sum := uint64(0)
	for v := range 256 {
		if n := uint(count[0][v]) + uint(count[1][v]) + uint(count[2][v]) + uint(count[3][v]); n > 1 {
			sum += nLog2(n)
		}
	}
	const whole = 12 * 256 * probeBytes // log2(probeBytes) = 12
	return (whole-sum)/probeBytes < probeLimit
}

// nLog2s are the first values of nLog2. Evenly distributed bytes need no others.
var nLog2s = func() (t [64]uint64) {
	for n := range t {
		if n > 0 {
			t[n] = uint64(n) * uint64(log2Of(uint(n)))
		}
	}
	return t
}()

// nLog2 returns n times 256·log2(n).
func nLog2(n uint) uint64 {
	if n < uint(len(nLog2s)) {
		return nLog2s[n]
	}
	return uint64(n) * uint64(log2Of(n))
}

// log2Of returns 256·log2(n), rounded down, for 1 ≤ n ≤ probeBytes. It uses integers only: all
// machines must give the same result.
func log2Of(n uint) uint {
	e := uint(bits.Len(n)) - 1
	// The fraction, bit by bit: squaring doubles the logarithm.
	x := uint64(n) << (31 - e) // in [2^31, 2^32)
	r := e
	for range 8 {
		x = x * x >> 31
		r <<= 1
		if x >= 1<<32 {
			x >>= 1
			r |= 1
		}
	}
	return r
}
