package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore/chunkstoretest"
)

// encrypted is encrypted data in a store, in any encoding.
type encrypted struct {
	encoding selfenc.Encoding
	open     func(ctx context.Context, store chunkstore.Store) (*selfenc.Reader, error)
}

// encryptAll encrypts plain into a store in every encoding, as many small chunks.
func encryptAll(t *testing.T, store chunkstore.Store, plain []byte) (all []encrypted) {
	t.Helper()
	k, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	defer k.Erase()
	keys, err := crypto.DeriveTenantKeys(k)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Erase)
	sealer := func(s chunkstore.Store) *selfenc.Sealer {
		v, err := selfenc.NewSealer(keys, crypto.SuiteXChaCha20Poly1305, chunkstore.NewChunks(s, selfenc.V2), selfenc.Options{ChunkBytes: selfenc.V2MinChunk})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(v.Close)
		return v
	}
	o, err := sealer(store).Encrypt(t.Context(), bytes.NewReader(plain))
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, encrypted{selfenc.V2, func(_ context.Context, s chunkstore.Store) (*selfenc.Reader, error) { return sealer(s).Open(o) }})
	for _, e := range []selfenc.Encoding{selfenc.SE31, selfenc.SE36} {
		m, err := selfenc.EncryptTo(t.Context(), e, chunkstore.NewChunks(store, e), bytes.NewReader(plain), selfenc.Options{ChunkBytes: 20 << 10})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, encrypted{e, func(ctx context.Context, s chunkstore.Store) (*selfenc.Reader, error) {
			return selfenc.Open(ctx, e, chunkstore.NewChunks(s, e), m, selfenc.Options{})
		}})
	}
	return all
}

func (e *encrypted) copy(ctx context.Context, store chunkstore.Store, w io.Writer) error {
	r, err := e.open(ctx, store)
	if err != nil {
		return err
	}
	return r.Copy(ctx, w, 0, r.Size())
}

// TestFaults breaks each chunk in each way. The returned bytes must be correct, and the error must
// name the chunk.
func TestFaults(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	plain := make([]byte, 300_000)
	for i := range plain {
		plain[i] = byte(rng.Uint32()) & byte(i>>12) // of any compressibility
	}
	store := chunkstore.NewMemory()
	for _, e := range encryptAll(t, store, plain) {
		var keys []string
		for i, err := range store.List(t.Context(), e.encoding.String()+"/", "") {
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, i.Key)
		}
		if len(keys) < 5 {
			t.Fatalf("%s: %d chunks", e.encoding, len(keys))
		}
		swapped := func(ctx context.Context, key string, _ []byte) ([]byte, error) {
			other := keys[0]
			if key == other {
				other = keys[1]
			}
			return store.Get(ctx, other, nil, 1<<20)
		}
		for name, fault := range map[string]struct {
			change func(context.Context, string, []byte) ([]byte, error)
			want   []error
		}{
			"lost":      {chunkstoretest.Lost, []error{selfenc.ErrNoSuchChunk}},
			"truncated": {chunkstoretest.Truncated, []error{selfenc.ErrCorrupt}},
			"emptied":   {chunkstoretest.Emptied, []error{selfenc.ErrChunkTooSmall}},
			"extended":  {chunkstoretest.Extended, []error{selfenc.ErrCorrupt}},
			"corrupted": {chunkstoretest.Corrupted, []error{selfenc.ErrCorrupt}},
			"swapped":   {swapped, []error{selfenc.ErrCorrupt, selfenc.ErrChunkTooLarge}},
			"refused":   {chunkstoretest.Refused, []error{chunkstoretest.ErrRefused}},
		} {
			for _, bad := range keys {
				broken := &chunkstoretest.Faulty{Store: store, OnGet: func(ctx context.Context, key string, b []byte) ([]byte, error) {
					if key == bad {
						return fault.change(ctx, key, b)
					}
					return b, nil
				}}
				var out bytes.Buffer
				err := e.copy(t.Context(), broken, &out)
				fits := false
				for _, want := range fault.want {
					fits = fits || errors.Is(err, want)
				}
				var chunk *selfenc.ChunkError
				if !fits || !errors.As(err, &chunk) || !strings.HasSuffix(bad, chunk.Name.String()) {
					t.Errorf("%s, %s %s: %v", e.encoding, name, bad, err)
				}
				if !bytes.HasPrefix(plain, out.Bytes()) || out.Len() == len(plain) {
					t.Errorf("%s, %s %s: wrong bytes came out", e.encoding, name, bad)
				}
			}
		}
		slowly(t, &e, store)
	}
}

// slowly reads from a store that does not answer until the context ends.
func slowly(t *testing.T, e *encrypted, store chunkstore.Store) {
	t.Helper()
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	asked := make(chan struct{}, 100)
	slow := &chunkstoretest.Faulty{Store: store, OnGet: func(ctx context.Context, key string, b []byte) ([]byte, error) {
		asked <- struct{}{}
		return chunkstoretest.Slow(ctx, key, b)
	}}
	go func() {
		<-asked
		cancel(why)
	}()
	var out bytes.Buffer
	if err := e.copy(ctx, slow, &out); !errors.Is(err, why) || out.Len() > 0 {
		t.Errorf("%s: %v", e.encoding, err)
	}
}

// TestRefusedPuts checks that encryption fails if a chunk is refused.
func TestRefusedPuts(t *testing.T) {
	refusing := &chunkstoretest.Faulty{Store: chunkstore.NewMemory(), OnPut: func(context.Context, string) error { return chunkstoretest.ErrRefused }}
	_, err := selfenc.EncryptTo(t.Context(), selfenc.SE36, chunkstore.NewChunks(refusing, selfenc.SE36), strings.NewReader("some text"), selfenc.Options{})
	if !errors.Is(err, chunkstoretest.ErrRefused) {
		t.Errorf("%v", err)
	}
}

// TestChunks checks that Chunks finds damaged chunks, and replaces those with a wrong length.
func TestChunks(t *testing.T) {
	store := chunkstore.NewMemory()
	for _, e := range []selfenc.Encoding{selfenc.V2, selfenc.SE31, selfenc.SE36} {
		c := chunkstore.NewChunks(store, e)
		data := []byte("a stored chunk of " + e.String())
		name := e.NameOf(data)
		key := fmt.Sprintf("%s/%s/%s", e, name.String()[:2], name)
		if _, ok, err := c.HasChunk(t.Context(), name); ok || err != nil {
			t.Errorf("%v, %v", ok, err)
		}
		if err := c.CheckChunk(t.Context(), name); !errors.Is(err, selfenc.ErrNoSuchChunk) {
			t.Errorf("%v", err)
		}
		for _, damaged := range []string{"", "cut", "longer than the chunk was, by some bytes"} {
			if err := store.Replace(t.Context(), key, []byte(damaged)); err != nil {
				t.Fatal(err)
			}
			if err := c.CheckChunk(t.Context(), name); !errors.Is(err, selfenc.ErrCorrupt) {
				t.Errorf("%s: %v", e, err)
			}
			if err := c.PutChunk(t.Context(), name, data); err != nil {
				t.Fatal(err)
			}
			if err := c.CheckChunk(t.Context(), name); err != nil {
				t.Errorf("%s: it was not repaired: %v", e, err)
			}
		}
		if n, ok, err := c.HasChunk(t.Context(), name); !ok || err != nil || n != int64(len(data)) {
			t.Errorf("%d, %v, %v", n, ok, err)
		}
		if _, err := c.GetChunk(t.Context(), name, nil, 5); !errors.Is(err, selfenc.ErrChunkTooLarge) {
			t.Errorf("%v", err)
		}
		for _, stray := range []string{"/stray", "/zz/" + name.String(), "/00/" + strings.ToUpper(name.String())} {
			if _, err := store.Put(t.Context(), e.String()+stray, nil); err != nil {
				t.Fatal(err)
			}
		}
		found, strays := 0, 0
		for i, err := range c.ListChunks(t.Context()) {
			if err != nil {
				strays++
			} else if found++; i.Name != name || i.Bytes != int64(len(data)) {
				t.Errorf("%s: %v", e, i)
			}
		}
		if found != 1 || strays != 3 {
			t.Errorf("%s: %d chunks and %d strays listed", e, found, strays)
		}
		if err := errors.Join(c.DeleteChunk(t.Context(), name), c.DeleteChunk(t.Context(), name)); err != nil {
			t.Error(err)
		}
	}
}
