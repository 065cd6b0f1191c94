package crypto

import (
	"fmt"
	"testing"
)

var benchExtents = []Extent{
	{PLen: 4096, LLen: 4096, Kind: KindFileData, Shift: 12},
	{PLen: 16384, LLen: 16384, Kind: 1},
	{PLen: 65536, LLen: 65536, Kind: KindFileData, Shift: 12},
	{PLen: 1 << 20, LLen: 1 << 20, Kind: KindFileData, Shift: 16},
}

func benchExtent(b *testing.B, run func(b *testing.B, k *EpochKeys, e *Extent, buf []byte, tags []Tag)) {
	for _, s := range []Suite{SuiteXChaCha20Poly1305, SuiteXAES256GCM} {
		k := testEpochKeys(b, s, NewUUID(), 1, make([]byte, 32))
		for _, e := range benchExtents {
			b.Run(fmt.Sprintf("%v/%dKiB-shift%d", s, e.PLen>>10, e.Shift), func(b *testing.B) {
				e.Epoch = 1
				buf := make([]byte, e.PaddedBytes())
				tags := make([]Tag, e.Segments())
				b.SetBytes(int64(e.PLen))
				b.ReportAllocs()
				run(b, k, &e, buf, tags)
			})
		}
	}
}

func BenchmarkSealExtent(b *testing.B) {
	benchExtent(b, func(b *testing.B, k *EpochKeys, e *Extent, buf []byte, tags []Tag) {
		payload := make([]byte, e.PLen)
		for b.Loop() {
			if err := k.SealExtent(e, buf, tags, payload); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkOpenExtent(b *testing.B) {
	benchExtent(b, func(b *testing.B, k *EpochKeys, e *Extent, buf []byte, tags []Tag) {
		if err := k.SealExtent(e, buf, tags, make([]byte, e.PLen)); err != nil {
			b.Fatal(err)
		}
		dst := make([]byte, len(buf))
		for b.Loop() {
			if err := k.OpenSegments(e, 0, len(tags), dst, buf, tags); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkOpenSegment measures a random read: one segment of a 64 KiB extent.
func BenchmarkOpenSegment(b *testing.B) {
	benchExtent(b, func(b *testing.B, k *EpochKeys, e *Extent, buf []byte, tags []Tag) {
		if err := k.SealExtent(e, buf, tags, make([]byte, e.PLen)); err != nil {
			b.Fatal(err)
		}
		_, end := e.SegmentRange(0)
		dst := make([]byte, end)
		b.SetBytes(int64(end))
		for b.Loop() {
			if err := k.OpenSegments(e, 0, 1, dst, buf[:end], tags[:1]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkSealFrame(b *testing.B) {
	for _, s := range []Suite{SuiteXChaCha20Poly1305, SuiteXAES256GCM} {
		b.Run(s.String(), func(b *testing.B) {
			k := testEpochKeys(b, s, NewUUID(), 1, make([]byte, 32))
			payload, dst := make([]byte, FrameBytes), make([]byte, SectorBytes)
			b.ReportAllocs()
			for b.Loop() {
				if err := k.SealFrame([16]byte{}, 1, payload, dst); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
