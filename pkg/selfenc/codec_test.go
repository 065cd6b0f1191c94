package selfenc

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
)

func testSealer(t testing.TB, store ChunkStore, o Options) *Sealer {
	t.Helper()
	return sealerOf(t, 7, crypto.SuiteXChaCha20Poly1305, store, o)
}

func sealerOf(t testing.TB, secret byte, suite crypto.Suite, store ChunkStore, o Options) *Sealer {
	t.Helper()
	k, err := crypto.NewKey(bytes.Repeat([]byte{secret}, crypto.KeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Erase()
	keys, err := crypto.DeriveTenantKeys(k)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Erase)
	s, err := NewSealer(keys, suite, store, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// codec is one encoding, for tests that are the same for all.
type codec struct {
	name    string
	encrypt func(ctx context.Context, store ChunkStore, r io.Reader, o Options) (open func(ctx context.Context, o Options) (*Reader, error), err error)
	chunk   int // a small size of chunks
	min     int
}

func codecs(t testing.TB) []codec {
	list := []codec{{name: "v2", chunk: V2MinChunk, encrypt: func(ctx context.Context, store ChunkStore, r io.Reader, o Options) (func(context.Context, Options) (*Reader, error), error) {
		obj, err := testSealer(t, store, o).Encrypt(ctx, r)
		return func(_ context.Context, o Options) (*Reader, error) { return testSealer(t, store, o).Open(obj) }, err
	}}}
	for _, e := range []Encoding{SE31, SE36} {
		list = append(list, codec{name: e.String(), chunk: 1024, min: MinBytes, encrypt: func(ctx context.Context, store ChunkStore, r io.Reader, o Options) (func(context.Context, Options) (*Reader, error), error) {
			m, err := EncryptTo(ctx, e, store, r, o)
			return func(ctx context.Context, o Options) (*Reader, error) { return Open(ctx, e, store, m, o) }, err
		}})
	}
	return list
}

func randomBytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		x := rng.Uint64()
		if i&64 != 0 {
			x &= 0x0f0f0f0f // some of it compresses
		}
		for k := i; k < min(n, i+8); k++ {
			b[k] = byte(x)
			x >>= 8
		}
	}
	return b
}

func seeded(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
