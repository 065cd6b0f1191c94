package selfenc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// golden is testdata/reference/manifest.json.
type golden struct {
	Inputs struct {
		Words []string `json:"words"`
	} `json:"inputs"`
	Sets []struct {
		Dir   string       `json:"dir"`
		Cases []goldenCase `json:"cases"`
	} `json:"sets"`
}

type goldenCase struct {
	Name  string `json:"name"`
	Input struct {
		Kind   string `json:"kind"`
		Size   int    `json:"size"`
		SHA256 string `json:"sha256"`
	} `json:"input"`
	Error  string        `json:"error"`
	Stored bool          `json:"chunks_stored"`
	Order  []string      `json:"emitted_chunk_order"`
	Levels []goldenLevel `json:"levels_final_to_root"`
}

type goldenLevel struct {
	Child  *uint64 `json:"child"`
	Len    int     `json:"datamap_len"`
	Hex    string  `json:"datamap_hex"`
	SHA256 string  `json:"datamap_sha256"`
	Chunks []struct {
		Index    uint64 `json:"index"`
		SrcBytes uint64 `json:"src_size"`
		SrcHash  string `json:"src_hash"`
		DstHash  string `json:"dst_hash"`
		EncBytes int    `json:"enc_size"`
	} `json:"chunks"`
}

func goldenJSON(t testing.TB, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata/reference", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

func goldenStream(kind string, size, count int) []byte {
	label := fmt.Sprintf("se-golden-v1/%s/%d/", kind, size)
	out := make([]byte, 0, count+sha256.Size)
	for i := uint64(0); len(out) < count; i++ {
		sum := sha256.Sum256(binary.LittleEndian.AppendUint64([]byte(label), i))
		out = append(out, sum[:]...)
	}
	return out[:count]
}

func (g *golden) input(t testing.TB, c *goldenCase) []byte {
	t.Helper()
	b := g.generate(c.Input.Kind, c.Input.Size)
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != c.Input.SHA256 {
		t.Fatalf("%s: the input is made wrongly", c.Name)
	}
	return b
}

func (g *golden) generate(kind string, size int) []byte {
	switch kind {
	case "random":
		return goldenStream("random", size, size)
	case "text":
		var out []byte
		for _, b := range goldenStream("text", size, size/3+1) {
			out = append(out, g.Inputs.Words[b&63]...)
			if b>>6 == 3 {
				out = append(out, '\n')
			} else {
				out = append(out, ' ')
			}
			if len(out) >= size {
				break
			}
		}
		return out[:size]
	case "mixed":
		random, text := g.generate("random", size), g.generate("text", size)
		for i := range random {
			if i>>16&1 != 0 {
				random[i] = text[i]
			}
		}
		return random
	}
	return make([]byte, size)
}

func (s *goldenCase) encoding(dir string) Encoding {
	if dir == "v0.31" {
		return SE31
	}
	return SE36
}

// sameNames counts the chunks whose names equal those of the reference implementation. Not all do,
// because the brotli encoder is another one. docs/selfenc-format.md contains the numbers.
type sameNames struct{ same, all int }

// TestGolden reads data of the reference implementation. It also checks that our output has the
// same structure, and the same names if the two brotli encoders give the same result.
func TestGolden(t *testing.T) {
	var g golden
	goldenJSON(t, "manifest.json", &g)
	var stored map[string]map[string][]byte
	goldenJSON(t, "chunks.json", &stored)
	names := map[string]*sameNames{}
	for _, set := range g.Sets {
		for i := range set.Cases {
			c := &set.Cases[i]
			e := c.encoding(set.Dir)
			if testing.Short() && c.Input.Size > 100_000 && (c.Input.Kind != "zeros" || c.Input.Size > 4<<20) {
				continue // encrypting them takes long with the race detector
			}
			plain := g.input(t, c)
			m, chunks, err := Encrypt(e, plain, Options{})
			if c.Error != "" {
				if !errors.Is(err, ErrTooSmall) {
					t.Errorf("%s %s: %v", e, c.Name, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("%s %s: %v", e, c.Name, err)
			}
			if got, err := Decrypt(e, m, chunks, Options{}); err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("%s %s: our own chunks: %v", e, c.Name, err)
			}
			checkStructure(t, e, c, m, chunks, names)
			if c.Stored {
				readGolden(t, e, c, plain, stored[set.Dir])
			}
		}
	}
	for _, kind := range []string{"se31 random", "se31 zeros", "se31 text", "se36 random", "se36 zeros", "se31 mixed", "se36 mixed", "se36 text", "se31 map", "se36 map"} {
		n := names[kind]
		if n == nil && testing.Short() {
			continue
		}
		if n == nil {
			t.Fatalf("%s: no chunk", kind)
		}
		t.Logf("%s: %d of %d chunks have the reference's names", kind, n.same, n.all)
		switch kind {
		case "se31 random", "se31 zeros", "se31 text", "se36 random", "se36 zeros":
			if n.same != n.all {
				t.Errorf("%s: only %d of %d chunks have the reference's names", kind, n.same, n.all)
			}
		default:
			if n.same*3 < n.all && !testing.Short() {
				t.Errorf("%s: only %d of %d chunks have the reference's names", kind, n.same, n.all)
			}
		}
	}
}

// checkStructure compares every level with that of the reference implementation.
func checkStructure(t *testing.T, e Encoding, c *goldenCase, m *DataMap, chunks []Chunk, names map[string]*sameNames) {
	t.Helper()
	store := &memoryStore{}
	for _, k := range chunks {
		if err := store.PutChunk(t.Context(), k.Name, k.Data); err != nil {
			t.Fatal(err)
		}
	}
	if len(chunks) != len(c.Order) {
		t.Fatalf("%s %s: %d chunks, want %d", e, c.Name, len(chunks), len(c.Order))
	}
	emitted := 0
	for l := len(c.Levels) - 1; l >= 0; l-- {
		want := c.Levels[l]
		kind := e.String() + " " + c.Input.Kind
		if l < len(c.Levels)-1 {
			kind = e.String() + " map"
		}
		if names[kind] == nil {
			names[kind] = &sameNames{}
		}
		for i, w := range want.Chunks {
			k := chunks[emitted]
			names[kind].all++
			if k.Name.String() == w.DstHash {
				names[kind].same++
				if len(k.Data) != w.EncBytes {
					t.Errorf("%s %s: chunk %d has %d bytes, want %d", e, c.Name, i, len(k.Data), w.EncBytes)
				}
				if c.Order[emitted] != w.DstHash {
					t.Errorf("%s %s: chunk %d is emitted in another order", e, c.Name, i)
				}
			}
			emitted++
		}
	}
	for l := range c.Levels {
		want := c.Levels[l]
		if len(m.Chunks) != len(want.Chunks) || want.Child == nil && m.Child != 0 || want.Child != nil && m.Child != *want.Child {
			t.Fatalf("%s %s: level %d has %d chunks, want %d", e, c.Name, m.Child, len(m.Chunks), len(want.Chunks))
		}
		for i, w := range want.Chunks {
			k := m.Chunks[i]
			if m.Child == 0 && (k.SrcBytes != w.SrcBytes || k.SrcHash.String() != w.SrcHash) {
				t.Errorf("%s %s: chunk %d is cut otherwise", e, c.Name, i)
			}
		}
		if l+1 < len(c.Levels) {
			var err error
			var b bytes.Buffer
			if err = newReader(newReferenceSource(e, store, m), Options{}).Copy(t.Context(), &b, 0, 1<<30); err != nil {
				t.Fatal(err)
			}
			if m, _, err = decodeBinary(b.Bytes()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// readGolden decrypts the reference implementation's chunks, completely and in parts.
func readGolden(t *testing.T, e Encoding, c *goldenCase, plain []byte, stored map[string][]byte) {
	t.Helper()
	store := &memoryStore{}
	for _, l := range c.Levels {
		for _, k := range l.Chunks {
			name, err := ParseName(k.DstHash)
			if err != nil {
				t.Fatal(err)
			}
			if err := store.PutChunk(t.Context(), name, stored[k.DstHash]); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, l := range c.Levels {
		b, err := hex.DecodeString(l.Hex)
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != l.SHA256 {
			t.Fatal("wrong map")
		}
		m, form, err := DecodeDataMap(b)
		if err != nil {
			t.Fatalf("%s %s: %v", e, c.Name, err)
		}
		if again, err := m.Encode(form); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s %s: level %d encodes otherwise: %v", e, c.Name, i, err)
		}
		if want := map[Encoding]MapForm{SE31: MapV0C, SE36: MapV1}[e]; form != want {
			t.Errorf("%s %s: form %s, want %s", e, c.Name, form, want)
		}
		r, err := Open(t.Context(), e, store, m, Options{})
		if err != nil {
			t.Fatalf("%s %s: level %d: %v", e, c.Name, i, err)
		}
		var got bytes.Buffer
		if err := r.Copy(t.Context(), &got, 0, r.Size()); err != nil || !bytes.Equal(got.Bytes(), plain) {
			t.Fatalf("%s %s: level %d: %v", e, c.Name, i, err)
		}
		part := make([]byte, len(plain)/2)
		if n, err := r.ReadRange(context.Background(), part, int64(len(plain)/4)); err != nil || n != len(part) || !bytes.Equal(part, plain[len(plain)/4:][:n]) {
			t.Fatalf("%s %s: a range: %v", e, c.Name, err)
		}
	}
}

// TestGoldenSteps checks the intermediate steps: compression, keys and cipher.
func TestGoldenSteps(t *testing.T) {
	var g golden
	goldenJSON(t, "manifest.json", &g)
	var steps []struct {
		Set, Case string
		Index     int
		Brotli    string `json:"brotli_hex"` // of short ones
		SHA256    string `json:"brotli_sha256"`
	}
	goldenJSON(t, "intermediates.json", &steps)
	var stored map[string]map[string][]byte
	goldenJSON(t, "chunks.json", &stored)
	checked := 0
	for _, s := range steps {
		for _, set := range g.Sets {
			for i := range set.Cases {
				c := &set.Cases[i]
				if set.Dir != s.Set || c.Name != s.Case {
					continue
				}
				e := c.encoding(set.Dir)
				b, err := hex.DecodeString(c.Levels[0].Hex)
				if err != nil {
					t.Fatal(err)
				}
				m, _, err := DecodeDataMap(b)
				if err != nil {
					t.Fatal(err)
				}
				plain := g.input(t, c)
				from, to := newReferenceSource(e, nil, m).span(int64(s.Index))
				comp, err := compressBrotli(plain[from:to], 0)
				if sum := sha256.Sum256(comp); err != nil || hex.EncodeToString(sum[:]) != s.SHA256 || s.Brotli != "" && hex.EncodeToString(comp) != s.Brotli {
					t.Errorf("%s %s chunk %d: compresses otherwise: %v", s.Set, s.Case, s.Index, err)
				}
				p, q := m.neighbours(s.Index)
				l := crypto.ChunkLink{Own: m.Chunks[s.Index].SrcHash, Previous: m.Chunks[p].SrcHash, BeforePrevious: m.Chunks[q].SrcHash, Index: uint64(s.Index)}
				got, err := e.scheme().Seal(nil, comp, &l)
				if want := stored[set.Dir][m.Chunks[s.Index].DstHash.String()]; err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s %s chunk %d: the reference's compression is sealed otherwise: %v", s.Set, s.Case, s.Index, err)
				}
				checked++
			}
		}
	}
	if checked != len(steps) {
		t.Errorf("%d of %d steps checked", checked, len(steps))
	}
}
