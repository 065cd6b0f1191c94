package format

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"
)

// codec decodes bytes and encodes what it got.
type codec struct {
	name  string
	again func(b []byte) ([]byte, error)
	seeds func() [][]byte
}

func codecs() []codec {
	return []codec{
		{"pack", againPack, func() [][]byte { return [][]byte{testPack(1), testPack(9)} }},
		{"page", func(b []byte) ([]byte, error) {
			p, err := DecodePage(b)
			if err != nil {
				return nil, err
			}
			return EncodePage(p)
		}, func() [][]byte { return [][]byte{must(EncodePage(testEntries(1))), must(EncodePage(testEntries(40)))} }},
		{"manifest", func(b []byte) ([]byte, error) {
			h, sealed, err := DecodeManifest(b)
			if err != nil {
				return nil, err
			}
			return EncodeManifest(h, sealed)
		}, func() [][]byte { return [][]byte{testManifest(0), testManifest(3)} }},
		{"card", func(b []byte) ([]byte, error) {
			s, sealed, err := DecodeCard(b)
			return EncodeCard(s, sealed), err
		}, func() [][]byte { return [][]byte{EncodeCard(1, make([]byte, 40))} }},
		{"tomb", func(b []byte) ([]byte, error) {
			t, err := DecodeTomb(b)
			if err != nil {
				return nil, err
			}
			return t.Encode()
		}, func() [][]byte { return [][]byte{must((&Tomb{7, "who"}).Encode())} }},
		{"lease", func(b []byte) ([]byte, error) {
			l, err := DecodeLease(b)
			if err != nil {
				return nil, err
			}
			return l.Encode()
		}, func() [][]byte { return [][]byte{must(testLease().Encode())} }},
		{"condemned", func(b []byte) ([]byte, error) {
			n, err := DecodeCondemned(b)
			if err != nil {
				return nil, err
			}
			return EncodeCondemned(n)
		}, func() [][]byte {
			return [][]byte{must(EncodeCondemned([]Name{{Pack, ID{1}, Sum{2}}, {Pack, ID{1}, Sum{3}}, {Page, ID{}, Sum{}}}))}
		}},
		{"store", func(b []byte) ([]byte, error) {
			s, err := DecodeStore(b)
			if err != nil {
				return nil, err
			}
			return s.Encode()
		}, func() [][]byte { return [][]byte{must(testStore().Encode())} }},
		{"handle", func(b []byte) ([]byte, error) {
			h, err := ParseHandle(string(b))
			return []byte(h.String()), err
		}, func() [][]byte {
			return [][]byte{[]byte(Handle{ID{1}, ID{2}, &Sum{3}}.String()), []byte(Handle{ID{1}, ID{2}, nil}.String())}
		}},
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func testPack(n int) []byte {
	h := PackHeader{MixedPack, 3, 5, ID{7}}
	b := h.Append(nil)
	var slots []PackSlot
	for i := range n {
		o := bytes.Repeat([]byte{byte(i)}, MinObjectBytes+i)
		slots = append(slots, PackSlot{uint32(len(b)), uint32(len(o)), 1, 0, 1, [48]byte{byte(i)}})
		b = append(b, o...)
	}
	b = AppendPackTable(b, slots, uint32(len(b)))
	sum := SumOf(b)
	return append(append(b, sum[:]...), PackEnd...)
}

func againPack(b []byte) ([]byte, error) {
	h, slots, err := DecodePack(b)
	if err != nil {
		return nil, err
	}
	last := slots[len(slots)-1]
	end := last.Offset + last.Length
	out := append(h.Append(nil), b[PackHeaderBytes:end]...)
	out = AppendPackTable(out, slots, end)
	sum := SumOf(out)
	return append(append(out, sum[:]...), PackEnd...), nil
}

func testEntries(n int) []PackEntry {
	var list []PackEntry
	for i := range n {
		e := PackEntry{Number: uint32(3*i + 1), Name: Name{Pack, ID{byte(i / 5)}, Sum{byte(i)}}, Bytes: uint32(200 + i), Slots: uint16(i%12 + 2)}
		if i%3 == 1 {
			e.Live = make([]byte, (e.Slots+7)/8)
			e.Live[0] = 1
		}
		list = append(list, e)
	}
	return list
}

func testManifest(pages int) []byte {
	h := &Head{Suite: 1, S: ID{1}, Lineage: ID{2}, Parent: ID{3}, Created: 4}
	for i := range pages {
		packs := testEntries(5)
		for j := range packs {
			packs[j].Number += uint32(100 * i)
		}
		h.Pages = append(h.Pages, RefOf(ID{byte(i)}, must(EncodePage(packs)), packs))
		h.Packs += 5
		h.Bytes += h.Pages[i].Bytes
		h.Next = packs[4].Number + 1
	}
	return must(EncodeManifest(h, []byte("sealed")))
}

func testLease() *Lease {
	return &Lease{Writing, time.Hour, []ID{{1}, {2}}, []ID{{3}}, "node-a"}
}

func testStore() *Store {
	return &Store{1, ID{1}.String(), Strong, 64 << 10, 16 << 20}
}

// TestCanonical: what is encoded decodes and encodes to the same bytes; cut,
// extended or with any bit flipped, it is refused or is another value.
func TestCanonical(t *testing.T) {
	for _, c := range codecs() {
		for i, b := range c.seeds() {
			got, err := c.again(b)
			if err != nil || !bytes.Equal(got, b) {
				t.Errorf("%s %d: %x, %v", c.name, i, got, err)
			}
			for n := range b {
				if got, err := c.again(b[:n]); err == nil && !bytes.Equal(got, b[:n]) {
					t.Errorf("%s %d cut at %d: accepted as other bytes", c.name, i, n)
				}
			}
			for n := range 8 * len(b) {
				bad := bytes.Clone(b)
				bad[n/8] ^= 1 << (n % 8)
				got, err := c.again(bad)
				if err == nil && !bytes.Equal(got, bad) {
					t.Fatalf("%s %d: bit %d flipped: accepted as other bytes", c.name, i, n)
				}
				if err != nil && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrNewer) {
					t.Fatalf("%s %d: bit %d flipped: %v", c.name, i, n, err)
				}
			}
			if got, err := c.again(append(bytes.Clone(b), 0)); err == nil && !bytes.Equal(got, append(bytes.Clone(b), 0)) {
				t.Errorf("%s %d: extended: %v", c.name, i, err)
			}
		}
	}
}

// TestHostileLengths: a length that nothing follows makes no memory.
func TestHostileLengths(t *testing.T) {
	var before, after runtime.MemStats
	for _, c := range codecs() {
		for i, b := range c.seeds() {
			for range 300 {
				bad := bytes.Clone(b)
				at := rand.IntN(max(1, len(bad)-4))
				copy(bad[at:], []byte{0xff, 0xff, 0xff, 0xff}[:1+rand.IntN(4)])
				runtime.ReadMemStats(&before)
				_, _ = c.again(bad)
				runtime.ReadMemStats(&after)
				if n := after.TotalAlloc - before.TotalAlloc; n > 100_000 {
					t.Fatalf("%s %d: %d bytes of memory for %d bytes", c.name, i, n, len(bad))
				}
			}
		}
	}
}

func TestPackRules(t *testing.T) {
	b := testPack(3)
	seal := func(b []byte) []byte { // as somebody without keys can
		n := len(b) - len(PackEnd) - 32
		sum := SumOf(b[:n])
		copy(b[n:], sum[:])
		return b
	}
	table := len(b) - PackTrailerBytes - 3*PackSlotBytes
	for name, edit := range map[string]func([]byte){
		"gap":           func(b []byte) { b[table+PackSlotBytes]++ },
		"longer object": func(b []byte) { b[table+4]++ },
		"kind 0":        func(b []byte) { b[table+8] = 0 },
		"suite 0":       func(b []byte) { b[table+10] = 0 },
		"reserved":      func(b []byte) { b[table+11] = 1 },
		"no slot":       func(b []byte) { b[len(b)-PackTrailerBytes] = 0 },
		"table moved":   func(b []byte) { b[len(b)-PackTrailerBytes+4]-- },
		"header":        func(b []byte) { b[8] = 9 },
	} {
		bad := bytes.Clone(b)
		edit(bad)
		if _, _, err := DecodePack(seal(bad)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	bad := bytes.Clone(b)
	bad[40] ^= 1
	if _, _, err := DecodePack(bad); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "hash") {
		t.Errorf("a flipped bit: %v", err)
	}
}

func TestPageRules(t *testing.T) {
	for name, edit := range map[string]func([]PackEntry) []PackEntry{
		"empty":         func([]PackEntry) []PackEntry { return nil },
		"number twice":  func(p []PackEntry) []PackEntry { p[1].Number = p[0].Number; return p },
		"descending":    func(p []PackEntry) []PackEntry { p[2].Number = 0; return p },
		"no slots":      func(p []PackEntry) []PackEntry { p[0].Slots = 0; return p },
		"small":         func(p []PackEntry) []PackEntry { p[0].Bytes = 100; return p },
		"large":         func(p []PackEntry) []PackEntry { p[0].Bytes = MaxPackBytes + 1; return p },
		"none live":     func(p []PackEntry) []PackEntry { p[1].Live = []byte{0}; return p },
		"all live":      func(p []PackEntry) []PackEntry { p[1].Live = []byte{7}; return p },
		"beyond a slot": func(p []PackEntry) []PackEntry { p[1].Live = []byte{9}; return p },
		"long bitmap":   func(p []PackEntry) []PackEntry { p[1].Live = []byte{1, 0}; return p },
		"a page":        func(p []PackEntry) []PackEntry { p[0].Name.Class = 7; return p },
		"too many": func(p []PackEntry) []PackEntry {
			for i := range 1025 {
				p = append(p, PackEntry{Number: uint32(1000 + i), Name: p[0].Name, Bytes: 300, Slots: 1})
			}
			return p
		},
	} {
		packs := edit(testEntries(3))
		b, err := EncodePage(packs)
		if name == "a page" { // the class is not encoded
			continue
		}
		if !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %x, %v", name, b, err)
		}
	}
	packs := testEntries(10)
	page := must(EncodePage(packs))
	ref := RefOf(ID{9}, page, packs)
	if _, err := ref.CheckPage(page); err != nil {
		t.Error(err)
	}
	other := must(EncodePage(testEntries(9)))
	if _, err := ref.CheckPage(other); !errors.Is(err, ErrFormat) {
		t.Errorf("another page: %v", err)
	}
	lie := ref
	lie.Bytes++
	if _, err := lie.CheckPage(page); !errors.Is(err, ErrFormat) {
		t.Errorf("sums that do not add up: %v", err)
	}
}

func TestHeadRules(t *testing.T) {
	for name, edit := range map[string]func(*Head){
		"packs": func(h *Head) { h.Packs++ }, "bytes": func(h *Head) { h.Bytes-- }, "next": func(h *Head) { h.Next = 3 },
		"order": func(h *Head) { h.Pages[1].First = 0 }, "no packs": func(h *Head) { h.Pages[0].Packs = 0 },
		"suite": func(h *Head) { h.Suite = 0 }, "no name": func(h *Head) { h.S = ID{} },
		"long page": func(h *Head) { h.Pages[0].Length = MaxPageBytes + 1 },
	} {
		h, sealed, err := DecodeManifest(testManifest(2))
		if err != nil {
			t.Fatal(err)
		}
		binding := h.Binding()
		edit(h)
		if h.Binding() == binding {
			t.Errorf("%s: the sealed part does not bind it", name)
		}
		if _, err := EncodeManifest(h, sealed); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := testManifest(1)
	b[len(b)-1] ^= 1
	if _, _, err := DecodeManifest(b); !errors.Is(err, ErrFormat) {
		t.Errorf("another sealed part: %v", err)
	}
}

func TestNames(t *testing.T) {
	s, a := NewID(), NewID()
	for key, parse := range map[string]func(string) error{
		Name{Pack, a, Sum{1}}.Key(): func(k string) error { _, err := ParseName(k); return err },
		Name{Page, a, Sum{1}}.Key(): func(k string) error { _, err := ParseName(k); return err },
		SnapKey(s, ManifestPart):    func(k string) error { _, _, err := ParseSnapKey(k); return err },
		TombKey(s, a):               func(k string) error { _, _, err := ParseSnapKey(k); return err },
		VerdictKey(s, a):            func(k string) error { _, _, err := ParseSnapKey(k); return err },
		SnapKey(s, CardPart):        func(k string) error { _, _, err := ParseSnapKey(k); return err },
		SlotsKey(s, 17):             func(k string) error { _, _, err := ParseSnapKey(k); return err },
		LeaseKey(s, a):              func(k string) error { _, _, err := ParseLeaseKey(k); return err },
		GCKey(a):                    func(k string) error { _, err := ParseGCKey(k); return err },
	} {
		if err := parse(key); err != nil {
			t.Errorf("%s: %v", key, err)
		}
		for _, bad := range []string{"", "x" + key, key + "0", key + "/x", strings.ToUpper(key), key[:len(key)-1]} {
			if strings.HasPrefix(key, SnapPrefix) && (bad == key+"0" || bad == key[:len(key)-1]) && strings.Contains(key, KeysPart) {
				continue // another number
			}
			if parse(bad) == nil {
				t.Errorf("%q was taken", bad)
			}
		}
	}
	if n, err := ParseName(Name{Page, a, Sum{1}}.Key()); err != nil || n != (Name{Page, a, Sum{1}}) {
		t.Errorf("%v, %v", n, err)
	}
	if n, ok := SlotsVersion("keys-01"); ok {
		t.Errorf("keys-01 is %d", n)
	}
	if IsVoid(EncodeCard(1, make([]byte, 40))) || !IsVoid([]byte(VoidCard)) {
		t.Error("void")
	}
	if _, _, err := DecodeCard([]byte(VoidCard)); !errors.Is(err, ErrFormat) {
		t.Errorf("a void card decodes: %v", err)
	}
}

func fuzz(f *testing.F, name string) {
	for _, c := range codecs() {
		if c.name != name {
			continue
		}
		for _, b := range c.seeds() {
			f.Add(b)
		}
		f.Fuzz(func(t *testing.T, b []byte) {
			if got, err := c.again(b); err == nil && !bytes.Equal(got, b) {
				t.Errorf("%x is accepted as %x", b, got)
			}
		})
	}
}

func FuzzPack(f *testing.F)      { fuzz(f, "pack") }
func FuzzPage(f *testing.F)      { fuzz(f, "page") }
func FuzzManifest(f *testing.F)  { fuzz(f, "manifest") }
func FuzzCard(f *testing.F)      { fuzz(f, "card") }
func FuzzTomb(f *testing.F)      { fuzz(f, "tomb") }
func FuzzLease(f *testing.F)     { fuzz(f, "lease") }
func FuzzCondemned(f *testing.F) { fuzz(f, "condemned") }
func FuzzStore(f *testing.F)     { fuzz(f, "store") }
func FuzzHandle(f *testing.F)    { fuzz(f, "handle") }

// FuzzLeaseBody: leases whose hashes are right.
func FuzzLeaseBody(f *testing.F) {
	b := must(testLease().Encode())
	f.Add(b[:len(b)-32])
	f.Fuzz(func(t *testing.T, b []byte) {
		sum := SumOf(b)
		b = append(bytes.Clone(b), sum[:]...)
		l, err := DecodeLease(b)
		if err != nil {
			return
		}
		if got, err := l.Encode(); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%x is accepted as %x, %v", b, got, err)
		}
	})
}

// FuzzTable: slot tables of packs whose hashes are right, as anybody can make.
func FuzzTable(f *testing.F) {
	b := testPack(4)
	f.Add(b[:len(b)-len(PackEnd)-32])
	f.Fuzz(func(t *testing.T, b []byte) {
		sum := SumOf(b)
		b = append(append(bytes.Clone(b), sum[:]...), PackEnd...)
		if got, err := againPack(b); err == nil && !bytes.Equal(got, b) {
			t.Errorf("%x is accepted as %x", b, got)
		}
	})
}
