package selfenc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/sealvol/sealvol/pkg/selfenc"
)

// MemoryStore is the in-memory store of the reference implementation's documentation. It is safe
// for concurrent use.
type MemoryStore struct {
	mu     sync.Mutex
	chunks map[selfenc.Name][]byte
}

func (s *MemoryStore) PutChunk(_ context.Context, name selfenc.Name, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.chunks[name] = bytes.Clone(data)
	return nil
}

func (s *MemoryStore) GetChunk(_ context.Context, name selfenc.Name, room []byte, limit int) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.chunks[name]
	switch {
	case !ok:
		return nil, selfenc.ErrNoSuchChunk
	case len(data) > limit:
		return nil, selfenc.ErrChunkTooLarge
	}
	return append(room[:0], data...), nil
}

// The documentation's "In-Memory Operations": encrypts small data into a map and chunks, and
// decrypts it.
func Example() {
	data := []byte("Small data to encrypt")
	dataMap, chunks, err := selfenc.Encrypt(selfenc.SE31, data, selfenc.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, c := range chunks {
		fmt.Println(c.Name, len(c.Data), "bytes")
	}
	decrypted, err := selfenc.Decrypt(selfenc.SE31, dataMap, chunks, selfenc.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", decrypted)

	_, _, err = selfenc.Encrypt(selfenc.SE31, data[:2], selfenc.Options{})
	fmt.Println(errors.Is(err, selfenc.ErrTooSmall), err)
	// Output:
	// 48c5c42b033d47e7d16b87599a21a13732c548a6387f73a8cc4951186169923b 16 bytes
	// 8caddfc0fd1314c98569872a32c90a80a2ce0d99dc9260588d8001b964d6365a 16 bytes
	// 783969e4ea94fe79e51761df7606fc270321e8c239caf66bbd8df1ce566c920a 16 bytes
	// Small data to encrypt
	// true too small for self-encryption: it needs at least 3 bytes, not 2
}

// The documentation's "Streaming Operations", step by step: creates a store, encrypts a file into
// it, and decrypts it with bounded memory.
func Example_streaming() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	input, output := filepath.Join(dir, "my_file.txt"), filepath.Join(dir, "decrypted_file.txt")
	content := bytes.Repeat([]byte("a line of a large file\n"), 200_000)
	if err := os.WriteFile(input, content, 0o600); err != nil {
		fmt.Println(err)
		return
	}

	// Create a chunk store.
	store := &MemoryStore{chunks: map[selfenc.Name][]byte{}}

	// Encrypt the file.
	in, err := os.Open(input)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer in.Close()
	dataMap, err := selfenc.EncryptTo(ctx, selfenc.SE31, store, in, selfenc.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(dataMap.Chunks), "chunks in the map, which is", dataMap.Child, "level above the data")

	// Decrypt to a file.
	r, err := selfenc.Open(ctx, selfenc.SE31, store, dataMap, selfenc.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	out, err := os.Create(output)
	if err != nil {
		fmt.Println(err)
		return
	}
	err = errors.Join(r.Copy(ctx, out, 0, r.Size()), out.Sync(), out.Close())
	if err != nil {
		fmt.Println(err)
		return
	}
	decrypted, err := os.ReadFile(output)
	fmt.Println(r.Size(), "bytes in", r.Chunks(), "chunks; the same:", bytes.Equal(decrypted, content), err)

	// Or decrypt a part of it, which reads only the chunks that are needed.
	part := make([]byte, 22)
	n, err := r.ReadRange(ctx, part, 23*100_000)
	fmt.Printf("%q %v\n", part[:n], err)
	// Output:
	// 3 chunks in the map, which is 1 level above the data
	// 4600000 bytes in 5 chunks; the same: true <nil>
	// "a line of a large file" <nil>
}

// A data map of more than three chunks is encrypted itself, level by level, until three chunks are
// left. EncryptTo does this. Shrink does it for an unshrunk map.
func ExampleShrink() {
	ctx := context.Background()
	store := &MemoryStore{chunks: map[selfenc.Name][]byte{}}
	// Chunks have 1 KiB, so that little data has many chunks.
	o := selfenc.Options{ChunkBytes: 1 << 10}
	shrunk, err := selfenc.EncryptTo(ctx, selfenc.SE36, store, bytes.NewReader(make([]byte, 100<<10)), o)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(shrunk.Chunks), "chunks, level", shrunk.Child)

	root, err := selfenc.RootMap(ctx, selfenc.SE36, store, shrunk, o)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(root.Chunks), "chunks, level", root.Child, "of", root.PlainBytes(), "bytes")

	again, err := selfenc.Shrink(ctx, selfenc.SE36, store, root, o)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(again.Chunks), "chunks, level", again.Child)

	// A map in a form of the reference implementation.
	b, err := again.Encode(selfenc.MapV1)
	if err != nil {
		fmt.Println(err)
		return
	}
	read, form, err := selfenc.DecodeDataMap(b)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(b), "bytes of form", form, "give back", len(read.Chunks), "chunks, level", read.Child)
	// Output:
	// 3 chunks, level 2
	// 100 chunks, level 0 of 102400 bytes
	// 3 chunks, level 2
	// 258 bytes of form v1 give back 3 chunks, level 2
}

// The documentation's "Error Handling": every lost or damaged chunk is found, and the error names
// it.
func ExampleReader_Verify() {
	ctx := context.Background()
	store := &MemoryStore{chunks: map[selfenc.Name][]byte{}}
	dataMap, err := selfenc.EncryptTo(ctx, selfenc.SE36, store, bytes.NewReader(make([]byte, 1000)), selfenc.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err := selfenc.Open(ctx, selfenc.SE36, store, dataMap, selfenc.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("whole:", r.Verify(ctx))

	// A chunk's name is the hash of its stored bytes.
	name := dataMap.Chunks[1].DstHash
	good := store.chunks[name]
	fmt.Println("its name:", selfenc.SE36.NameOf(good) == name)

	store.chunks[name] = good[:5]
	fmt.Println("cut:", errors.Is(r.Verify(ctx), selfenc.ErrChunkTooSmall))
	store.chunks[name] = append(bytes.Clone(good[1:]), 0)
	fmt.Println("damaged:", errors.Is(r.Verify(ctx), selfenc.ErrCorrupt))
	delete(store.chunks, name)
	err = r.Verify(ctx)
	var chunk *selfenc.ChunkError
	fmt.Println("lost:", errors.Is(err, selfenc.ErrNoSuchChunk), errors.As(err, &chunk) && chunk.Index == 1 && chunk.Name == name)
	// Output:
	// whole: <nil>
	// its name: true
	// cut: true
	// damaged: true
	// lost: true true
}
