package selfenc

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync/atomic"
	"testing"
)

// peakStore records the maximum memory of the process: memory taken from the system and not
// returned, measured at each chunk.
type peakStore struct {
	memoryStore
	peak atomic.Uint64
}

func (s *peakStore) note() {
	m := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(m)
	now := m[0].Value.Uint64() - m[1].Value.Uint64()
	for {
		p := s.peak.Load()
		if now <= p || s.peak.CompareAndSwap(p, now) {
			return
		}
	}
}

func (s *peakStore) PutChunk(ctx context.Context, name Name, data []byte) error {
	s.note()
	return s.memoryStore.PutChunk(ctx, name, data)
}

func (s *peakStore) GetChunk(ctx context.Context, name Name, room []byte, limit int) ([]byte, error) {
	b, err := s.memoryStore.GetChunk(ctx, name, room, limit)
	s.note()
	return b, err
}

// repeatReader repeats one block: it has many chunks, but few different ones.
type repeatReader struct {
	block []byte
	at    int
}

func (r *repeatReader) Read(b []byte) (int, error) {
	n := copy(b, r.block[r.at:])
	r.at = (r.at + n) % len(r.block)
	return n, nil
}

// TestMemory checks that encrypting and decrypting on a machine with many cores needs less than 64
// MiB, and that an object eight times as large needs no more. This applies to the memory that Go
// takes from the system, and to the maximum resident memory, including the program and the store's
// four chunks.
func TestMemory(t *testing.T) {
	const env = "SELFENC_TEST_MEMORY"
	const limit = 64 << 20
	if size := os.Getenv(env); size != "" {
		measure(t, size)
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	sizes := []int{64, 512}
	if testing.Short() {
		sizes = []int{16, 64}
	}
	for _, kind := range []string{"random", "text"} {
		for _, size := range sizes {
			c := exec.CommandContext(t.Context(), exe, "-test.run", "^TestMemory$")
			c.Env = append(os.Environ(), env+"="+fmt.Sprint(kind, " ", size), "GOMAXPROCS=16")
			out, err := c.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			var encrypt, decrypt, resident uint64
			_, rest, _ := strings.Cut(string(out), "peaks ")
			if _, err := fmt.Sscan(rest, &encrypt, &decrypt, &resident); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			t.Logf("%s, %d MiB: encrypt %d MiB, decrypt %d MiB, resident %d MiB", kind, size, encrypt>>20, decrypt>>20, resident>>20)
			// The race detector uses more memory than the program itself.
			if encrypt > limit || decrypt > limit || resident > limit && !raceDetector {
				t.Errorf("%s, %d MiB: encrypting takes %d bytes, decrypting %d; %d resident", kind, size, encrypt, decrypt, resident)
			}
		}
	}
}

// measure runs in a separate process.
func measure(t *testing.T, what string) {
	var kind string
	var size int64
	if _, err := fmt.Sscan(what, &kind, &size); err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 4*V2ChunkBytes)
	word := sha256.Sum256([]byte("memory"))
	for i := range block {
		if i%len(word) == 0 {
			word = sha256.Sum256(word[:])
		}
		block[i] = word[i%len(word)]
		if kind == "text" {
			block[i] &= 0x33
		}
	}
	runtime.GC()
	s := &peakStore{}
	v := testSealer(t, s, Options{})
	o, err := v.Encrypt(t.Context(), io.LimitReader(&repeatReader{block: block}, size<<20))
	if err != nil {
		t.Fatal(err)
	}
	encrypt := s.peak.Swap(0)
	runtime.GC()
	r, err := v.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	fmt.Println("peaks", encrypt, s.peak.Load(), peakResident(t))
}

// peakResident returns the maximum resident memory of the process. rusage cannot be used, because a
// child starts with the value of its parent.
func peakResident(t *testing.T) uint64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	var kib uint64
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
