// Package selfenc exchanges data with the published crate self_encryption 0.36.2, using a small
// program in judge/.
package selfenc

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
)

const judge = "../../../build/cargo/release/selfenc-judge"

func run(t *testing.T, verb, file, store, dataMap string) {
	t.Helper()
	if _, err := os.Stat(judge); err != nil {
		t.Fatalf("%v: `make interop` builds it", err)
	}
	if out, err := exec.CommandContext(t.Context(), judge, verb, file, store, dataMap).CombinedOutput(); err != nil {
		t.Fatalf("judge %s: %v: %s", verb, err, out)
	}
}

// data returns random bytes of random compressibility, with ranges of zeros.
func data(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for from := 0; from < n; {
		to := min(n, from+1+rng.IntN(n/3+1))
		if mask := byte(rng.IntN(4)) * 0x55; mask != 0 {
			for i := from; i < to; i++ {
				b[i] = byte(rng.Uint32()) & mask
			}
		}
		from = to
	}
	return b
}

func seeded(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

type place struct{ file, store, dataMap string }

func newPlace(t *testing.T) place {
	t.Helper()
	dir := t.TempDir()
	p := place{filepath.Join(dir, "file"), filepath.Join(dir, "store"), filepath.Join(dir, "map")}
	if err := os.Mkdir(p.store, 0o700); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p place) chunks(t *testing.T) selfenc.ChunkStore {
	t.Helper()
	d, err := chunkstore.OpenDir(p.store)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return chunkstore.NewChunks(d, selfenc.SE36)
}

func write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sizes returns the sizes at the boundaries, and random ones.
func sizes(rng *rand.Rand) []int {
	const limit = selfenc.SE36MaxChunk
	list := []int{3, 4, 5, 100, 3*limit - 1, 3 * limit, 3*limit + 1, 4*limit + 5}
	for range 6 {
		list = append(list, 3+rng.IntN(1<<rng.IntN(21)))
	}
	return list
}

// TestTheyWrite decrypts data that the crate has encrypted.
func TestTheyWrite(t *testing.T) {
	rng := seeded(t)
	for _, n := range sizes(rng) {
		p, plain := newPlace(t), data(rng, n)
		write(t, p.file, plain)
		run(t, "encrypt", p.file, p.store, p.dataMap)
		m, form, err := selfenc.DecodeDataMap(read(t, p.dataMap))
		if err != nil || form != selfenc.MapV1 {
			t.Fatalf("%d bytes: %v %v", n, form, err)
		}
		r, err := selfenc.Open(t.Context(), selfenc.SE36, p.chunks(t), m, selfenc.Options{})
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		var got bytes.Buffer
		if err := r.Copy(t.Context(), &got, 0, r.Size()); err != nil || !bytes.Equal(got.Bytes(), plain) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

func weWrite(t *testing.T, plain []byte, o selfenc.Options) *selfenc.DataMap {
	t.Helper()
	p := newPlace(t)
	m, err := selfenc.EncryptTo(t.Context(), selfenc.SE36, p.chunks(t), bytes.NewReader(plain), o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := m.Encode(selfenc.MapV1)
	if err != nil {
		t.Fatal(err)
	}
	write(t, p.dataMap, b)
	run(t, "decrypt", p.file, p.store, p.dataMap)
	if !bytes.Equal(read(t, p.file), plain) {
		t.Fatalf("%d bytes: the crate reads something else", len(plain))
	}
	return m
}

// TestWeWrite lets the crate decrypt data that we have encrypted.
func TestWeWrite(t *testing.T) {
	rng := seeded(t)
	for _, n := range sizes(rng) {
		weWrite(t, data(rng, n), selfenc.Options{})
	}
}

// TestLevels lets the crate read our maps of several levels, for which its own encoder is wrong,
// and chunks of other sizes than its own.
func TestLevels(t *testing.T) {
	rng := seeded(t)
	for n, levels := range map[int]uint64{38 << 10: 1, 39 << 10: 2, 60 << 10: 2, 1300 << 10: 3} {
		if m := weWrite(t, data(rng, n), selfenc.Options{ChunkBytes: 1024}); m.Child != levels {
			t.Errorf("%d bytes: %d levels, want %d", n, m.Child, levels)
		}
	}
	weWrite(t, data(rng, 5<<20), selfenc.Options{ChunkBytes: 1 << 20})
}

// TestPython exchanges data between our Python package, as installed by `make python`, and the
// reference implementation's packages from PyPI, one release of each encoding.
func TestPython(t *testing.T) {
	ours, err := filepath.Glob("../../../build/venv-python/lib/python3*/site-packages")
	if err != nil || len(ours) != 1 {
		t.Fatalf("our package is not installed (%q): `make interop` does it", ours)
	}
	for encoding, venv := range map[string]string{"31": "venv-selfenc31", "36": "venv-selfenc"} {
		c := exec.CommandContext(t.Context(), "../../../build/"+venv+"/bin/python", "-B", "check_python.py", ours[0], encoding, "v1")
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s (`make interop` installs missing parts)", encoding, err, out)
		}
	}
}

// TestBeside runs the program of `make bench-selfenc` on little data.
func TestBeside(t *testing.T) {
	c := exec.CommandContext(t.Context(), "go", "run", "./test/interop/selfenc/beside", "-n", "1", "-mib", "2", "-stream", "0")
	c.Dir = "../../.."
	out, err := c.CombinedOutput()
	if err != nil || strings.Count(string(out), "\n| crate 0.36.2 | ") != 3 || strings.Count(string(out), "\n| v2, 1 core | ") != 3 {
		t.Errorf("%v: %s", err, out)
	}
}
