package crypto

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mappingFlags returns the VmFlags of the mapping that holds b, from
// /proc/self/smaps (proc_pid_smaps(5)).
func mappingFlags(t *testing.T, b []byte) []string {
	t.Helper()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	addr, inside := addressOf(b), false
	for line := range strings.Lines(string(smaps)) {
		if lo, hi, ok := strings.Cut(strings.Fields(line)[0], "-"); ok && !strings.HasSuffix(hi, ":") {
			a, err1 := strconv.ParseUint(lo, 16, 64)
			z, err2 := strconv.ParseUint(hi, 16, 64)
			inside = err1 == nil && err2 == nil && a <= addr && addr < z
		}
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok && inside {
			return strings.Fields(flags)
		}
	}
	t.Fatal("no such mapping")
	return nil
}

func addressOf(b []byte) uint64 { return uint64(reflect.ValueOf(b).Pointer()) }

func TestKeyMemoryIsProtected(t *testing.T) {
	key := testKey(t, make([]byte, 32))
	epoch := testEpochKeys(t, SuiteXAES256GCM, UUID{}, 1, make([]byte, 32))
	for _, b := range [][]byte{key.Bytes(), epoch.data.key.bytes(), epoch.header.bytes(), epoch.meta.k1.bytes()} {
		flags := mappingFlags(t, b)
		for _, want := range []string{"lo", "dd", "wf"} { // locked, don't dump, wipe on fork
			if !slices.Contains(flags, want) {
				t.Errorf("the mapping of a key lacks %s: %v", want, flags)
			}
		}
	}
	schedule := reflect.ValueOf(epoch.data.block()).Pointer()
	if page := uintptr(addressOf(epoch.data.key.bytes())) &^ 4095; schedule&^4095 != page {
		t.Error("the AES key schedule is not in locked memory")
	}
}

// TestAESBlockHasNoPointers checks an assumption of lockedBlock.
func TestAESBlockHasNoPointers(t *testing.T) {
	k := testEpochKeys(t, SuiteXAES256GCM, UUID{}, 1, make([]byte, 32))
	var walk func(reflect.Type)
	walk = func(ty reflect.Type) {
		switch ty.Kind() {
		case reflect.Struct:
			for i := range ty.NumField() {
				walk(ty.Field(i).Type)
			}
		case reflect.Array:
			walk(ty.Elem())
		case reflect.Pointer, reflect.Slice, reflect.String, reflect.Map, reflect.Interface, reflect.Chan, reflect.Func, reflect.UnsafePointer:
			t.Errorf("%v is a pointer", ty)
		}
	}
	walk(reflect.TypeOf(k.data.block()).Elem())
}

// mask lets the tests below store a secret without its plain bytes being in memory.
func mask(b []byte) []byte {
	m := make([]byte, len(b))
	for i := range b {
		m[i] = b[i] ^ 0xa5
	}
	return m
}

// findInMemory searches the writable memory of this process for masked secrets.
func findInMemory(t *testing.T, masked map[string][]byte) (found map[string]int) {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	found = map[string]int{}
	// The copy of the memory is masked, too; otherwise the search would find the copy.
	buf, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(buf) }()
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		lo, hi, _ := strings.Cut(f[0], "-")
		if !strings.HasPrefix(f[1], "rw") || len(f) > 5 && f[5] == "[vvar]" {
			continue
		}
		from, err1 := strconv.ParseUint(lo, 16, 64)
		to, err2 := strconv.ParseUint(hi, 16, 64)
		if err1 != nil || err2 != nil {
			t.Fatal(line)
		}
		const overlap = 32
		for at := from; at < to; at += uint64(len(buf)) - overlap {
			n, err := mem.ReadAt(buf[:min(uint64(len(buf)), to-at)], int64(at))
			if err != nil && n == 0 {
				break // a hole, such as a guard page
			}
			for i := range buf[:n] {
				buf[i] ^= 0xa5
			}
			for name, m := range masked {
				// The masked secret itself is in memory: seen through the
				// mask it is the plain secret, so it is not counted.
				if bytes.Contains(buf[:n], m) {
					found[name]++
				}
			}
			clear(buf)
			if to-at <= uint64(len(buf)) {
				break
			}
		}
	}
	return found
}

// TestMemoryIsErased uses keys in every way, erases them, and searches the whole memory of the
// process for them.
func TestMemoryIsErased(t *testing.T) {
	for _, s := range bothSuites {
		t.Run(s.String(), func(t *testing.T) {
			masked := map[string][]byte{}
			keep := func(name string, b []byte) { masked[name] = mask(b) }
			cleanup := useKeys(t, s, keep)
			if found := findInMemory(t, masked); len(found) == 0 {
				t.Fatal("the search finds no key even while they are in use")
			}
			cleanup()
			runtime.GC()
			for name, n := range findInMemory(t, masked) {
				t.Errorf("%s is in memory after Erase, %d times", name, n)
			}
		})
	}
}

//go:noinline
func useKeys(t *testing.T, s Suite, keep func(string, []byte)) (cleanup func()) {
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	id := NewUUID()
	vmk, err := GenerateKey()
	check(err)
	kek, err := GenerateKey()
	check(err)
	k, err := DeriveEpochKeys(s, id, 1, vmk)
	check(err)
	keep("VMK", vmk.Bytes())
	keep("KEK", kek.Bytes())
	keep("K_data", k.data.key.bytes())
	keep("K_meta", k.meta.key.bytes())
	keep("K_log", k.log.key.bytes())
	keep("K_root", k.root.key.bytes())
	keep("K_anchor", k.anchor.bytes())
	keep("K_hdr", k.header.bytes())

	plain := make([]byte, RootBytes)
	check(useEpochKeys(k, plain))

	c := SecretCredential(kek)
	slot, err := NewSlot(s, id, 3, c, []EpochKey{{1, vmk}})
	check(err)
	epochs, err := OpenSlot(s, id, 3, &slot, c)
	check(err)

	words := make([]byte, 40)
	rand.Read(words)
	pass, err := PassphraseCredential(words)
	check(err)
	cheap(pass)
	// The passphrase and its KEK are not searched for: the derivation functions of the standard
	// library and x/crypto leave copies (see doc.go).
	slot, err = NewSlot(s, id, 4, pass, epochs)
	check(err)
	more, err := OpenSlot(s, id, 4, &slot, pass)
	check(err)

	tenant, err := DeriveTenantKeys(kek)
	check(err)
	keep("C", tenant.c.bytes())
	_, _, err = tenant.SealChunk(s, ChunkData, 0, plain, nil, nil)
	check(err)
	snap, err := DeriveSnapshotKeys(s, id, vmk)
	check(err)
	keep("K_manifest", snap.box.key.bytes())
	_, err = snap.SealManifest(&Manifest{})
	check(err)

	return func() {
		EraseEpochs(epochs)
		EraseEpochs(more)
		vmk.Erase()
		k.Erase()
		c.Erase()
		pass.Erase()
		tenant.Erase()
		snap.Erase()
	}
}

// useEpochKeys seals and opens something of every kind.
func useEpochKeys(k *EpochKeys, plain []byte) error {
	var errs []error
	check := func(err error) { errs = append(errs, err) }
	for _, e := range benchExtents {
		e.Epoch = 1
		dst, tags := make([]byte, e.PaddedBytes()), make([]Tag, e.Segments())
		check(k.SealExtent(&e, dst, tags, make([]byte, e.PLen)))
		check(k.OpenSegments(&e, 0, len(tags), dst, dst, tags))
	}
	sector := make([]byte, SectorBytes)
	check(k.SealRoot(1, plain, sector))
	check(k.OpenRoot(1, sector, plain))
	check(k.SealFrame([16]byte{}, 1, plain, sector))
	check(k.OpenFrame([16]byte{}, 1, sector, plain))
	k.Anchor(1, [32]byte{})
	k.HeaderMAC(plain)
	return errors.Join(errs...)
}

// cheap sets the cost of a passphrase credential to the accepted minimum.
func cheap(c Credential) {
	c.(*passphraseCredential).cost = func(s Suite) passphraseParams {
		if s == SuiteXAES256GCM {
			return passphraseParams{function: functionPBKDF2, time: minPBKDF2Time}
		}
		return passphraseParams{function: functionArgon2id, time: 1, memory: minArgon2Memory, lanes: 1}
	}
}

func TestErasedKeysRefuse(t *testing.T) {
	vmk := testKey(t, sequence(1))
	k := testEpochKeys(t, 1, UUID{}, 1, sequence(1))
	e := benchExtents[0]
	dst, tags := make([]byte, 4096), make([]Tag, 1)
	if err := k.SealExtent(&e, dst, tags, make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	k.Erase()
	k.Erase()
	sector, plain := make([]byte, SectorBytes), make([]byte, RootBytes)
	for name, err := range map[string]error{
		"SealExtent":   k.SealExtent(&e, dst, tags, make([]byte, 4096)),
		"OpenSegments": k.OpenSegments(&e, 0, 1, make([]byte, 4096), dst, tags),
		"SealRoot":     k.SealRoot(0, plain, sector),
		"OpenRoot":     k.OpenRoot(0, sector, plain),
		"SealFrame":    k.SealFrame([16]byte{}, 0, plain, sector),
		"OpenFrame":    k.OpenFrame([16]byte{}, 0, sector, plain),
	} {
		if !errors.Is(err, ErrErased) {
			t.Errorf("%s after Erase: %v", name, err)
		}
	}
	if k.HeaderMAC(nil) != [32]byte{} || k.Anchor(1, [32]byte{}) != [32]byte{} {
		t.Error("an erased key makes MACs")
	}
	vmk.Erase()
	vmk.Erase()
	if vmk.Bytes() != nil {
		t.Error("Bytes after Erase")
	}
	if _, err := DeriveEpochKeys(1, UUID{}, 1, vmk); !errors.Is(err, ErrErased) {
		t.Errorf("derive from an erased key: %v", err)
	}
	if _, err := vmk.Clone(); !errors.Is(err, ErrErased) {
		t.Errorf("clone of an erased key: %v", err)
	}
	c := SecretCredential(vmk)
	if _, err := NewSlot(1, UUID{}, 0, c, []EpochKey{{1, testKey(t, sequence(1))}}); !errors.Is(err, ErrErased) {
		t.Errorf("slot under an erased key: %v", err)
	}
	if _, err := NewSlot(1, UUID{}, 0, SecretCredential(testKey(t, sequence(1))), []EpochKey{{1, vmk}}); !errors.Is(err, ErrErased) {
		t.Errorf("slot of an erased key: %v", err)
	}
	(*Key)(nil).Erase()
	(*EpochKeys)(nil).Erase()
}

func TestEraseWaitsForUse(t *testing.T) {
	k := testEpochKeys(t, SuiteXAES256GCM, UUID{}, 1, sequence(1))
	done := make(chan error)
	for range 4 {
		go func() {
			e := benchExtents[2]
			dst, tags := make([]byte, e.PaddedBytes()), make([]Tag, e.Segments())
			for {
				if err := k.SealExtent(&e, dst, tags, dst[:e.PLen]); err != nil {
					done <- err
					return
				}
			}
		}()
	}
	runtime.Gosched()
	k.Erase()
	for range 4 {
		if err := <-done; !errors.Is(err, ErrErased) {
			t.Error(err)
		}
	}
}

func TestHardenProcess(t *testing.T) {
	if os.Getenv("SEALVOL_TEST_HARDEN") == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHardenProcess$", "-test.v")
		cmd.Env = append(os.Environ(), "SEALVOL_TEST_HARDEN=1")
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("hardened")) {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := HardenProcess(); err != nil {
		t.Fatal(err)
	}
	if d, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || d != 0 {
		t.Errorf("dumpable %d: %v", d, err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil || limit.Cur != 0 || limit.Max != 0 {
		t.Errorf("core limit %v: %v", limit, err)
	}
	t.Log("hardened")
}
