// Command beside compares the encodings with the reference's own crate in one run: in each round,
// the crate, Sealvol's se36 and v2 encrypt and decrypt the same data in memory, one after the
// other. `make bench-selfenc` runs it; docs/performance.md has the results.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
)

func main() {
	rounds := flag.Int("n", 5, "number of rounds; the table shows medians")
	mib := flag.Int("mib", 64, "data size in MiB")
	stream := flag.Int64("stream", 4096, "size in MiB of the stream that shows the memory of the command; 0: skip")
	judge := flag.String("judge", "build/cargo/release/selfenc-judge", "the program that uses the reference's crate")
	sealvol := flag.String("sealvol", "bin/sealvol", "the sealvol command")
	flag.Parse()
	err := memory(os.Stdout, *sealvol, *stream<<20)
	for _, kind := range []string{"random", "text", "source"} {
		if err == nil {
			err = compare(os.Stdout, *judge, kind, *mib<<20, *rounds)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "beside:", err)
		os.Exit(1)
	}
}

// generate creates data: random, which cannot be compressed; text, which is that of the golden
// files, words in lines; source, Go's own source.
func generate(kind string, n int) ([]byte, error) {
	out := make([]byte, 0, n+64)
	if kind == "source" {
		return source(out, n)
	}
	var words []string
	if kind == "text" {
		var golden struct {
			Inputs struct {
				Words []string `json:"words"`
			} `json:"inputs"`
		}
		b, err := os.ReadFile("pkg/selfenc/testdata/reference/manifest.json")
		if err != nil {
			return nil, fmt.Errorf("%w: run it in the root directory of the repository", err)
		}
		if err := json.Unmarshal(b, &golden); err != nil {
			return nil, err
		}
		words = golden.Inputs.Words
	}
	for i := uint64(0); len(out) < n; i++ {
		sum := sha256.Sum256(binary.LittleEndian.AppendUint64(nil, i))
		if words == nil {
			out = append(out, sum[:]...)
			continue
		}
		for _, b := range sum {
			end := byte(' ')
			if b>>6 == 3 {
				end = '\n'
			}
			out = append(append(out, words[b&63]...), end)
		}
	}
	return out[:n], nil
}

// source appends Go's source code to out, up to n bytes, repeated if necessary.
func source(out []byte, n int) ([]byte, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	dir := os.DirFS(filepath.Join(strings.TrimSpace(string(root)), "src"))
	for len(out) < n {
		before := len(out)
		err := fs.WalkDir(dir, ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || path.Ext(name) != ".go" {
				return err
			}
			if len(out) >= n {
				return fs.SkipAll
			}
			b, err := fs.ReadFile(dir, name)
			out = append(out, b...)
			return err
		})
		if err != nil || len(out) == before {
			return nil, fmt.Errorf("read the source of Go: %w", err)
		}
	}
	return out[:n], nil
}

// cost is the time that a job took.
type cost struct{ wall, cpu time.Duration }

func measure(f func() error) (cost, error) {
	used := func() time.Duration {
		var t unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
			panic(err) // it exists on every Linux
		}
		return time.Duration(t.Nano())
	}
	runtime.GC() // collect the garbage of the previous job
	start, cpu := time.Now(), used()
	err := f()
	return cost{time.Since(start), used() - cpu}, err
}

// result has all rounds of one side.
type result struct {
	encrypt, decrypt []cost
	stored           int64
}

// side is one implementation, which encrypts and decrypts once.
type side struct {
	name string
	run  func(plain []byte, file string, r *result) error
}

func compare(w io.Writer, judge, kind string, n, rounds int) (err error) {
	plain, err := generate(kind, n)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "beside-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, kind)
	if err := os.WriteFile(file, plain, 0o600); err != nil {
		return err
	}
	cores := runtime.GOMAXPROCS(0)
	sides := []side{{"crate 0.36.2", func(_ []byte, file string, r *result) error { return crate(judge, file, r) }}}
	for _, e := range []selfenc.Encoding{selfenc.SE36, selfenc.V2} {
		for _, n := range slices.Compact([]int{1, cores}) {
			name := fmt.Sprintf("%s, %d cores", e, n)
			if n == 1 {
				name = fmt.Sprintf("%s, 1 core", e)
			}
			sides = append(sides, side{name, func(plain []byte, _ string, r *result) error {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(n))
				return ours(e, plain, r)
			}})
		}
	}
	results := make([]result, len(sides))
	for range rounds {
		for i, s := range sides {
			if err := s.run(plain, file, &results[i]); err != nil {
				return fmt.Errorf("%s, %s: %w", kind, s.name, err)
			}
		}
	}
	_, err = io.WriteString(w, table(kind, n, sides, results))
	return err
}

// crate runs the judge, which prints its times.
func crate(judge, file string, r *result) error {
	c := exec.Command(judge, "bench", file)
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		return err
	}
	var e, d cost
	if _, err := fmt.Sscanf(string(out), "encrypt %d %d\ndecrypt %d %d\nstored %d", &e.wall, &e.cpu, &d.wall, &d.cpu, &r.stored); err != nil {
		return fmt.Errorf("unexpected output of the judge %q: %w", out, err)
	}
	r.encrypt, r.decrypt = append(r.encrypt, e), append(r.decrypt, d)
	return nil
}

func ours(e selfenc.Encoding, plain []byte, r *result) error {
	store := chunkstore.NewMemory()
	chunks := chunkstore.NewChunks(store, e)
	ctx := context.Background()
	var open func() (*selfenc.Reader, error)
	encrypt := func() error {
		m, err := selfenc.EncryptTo(ctx, e, chunks, bytes.NewReader(plain), selfenc.Options{})
		open = func() (*selfenc.Reader, error) { return selfenc.Open(ctx, e, chunks, m, selfenc.Options{}) }
		return err
	}
	if e == selfenc.V2 {
		s, end, err := sealer(chunks)
		if err != nil {
			return err
		}
		defer end()
		encrypt = func() error {
			o, err := s.Encrypt(ctx, bytes.NewReader(plain))
			open = func() (*selfenc.Reader, error) { return s.Open(o) }
			return err
		}
	}
	took, err := measure(encrypt)
	if err != nil {
		return err
	}
	r.encrypt = append(r.encrypt, took)
	back := bytes.NewBuffer(make([]byte, 0, len(plain)))
	took, err = measure(func() error {
		reader, err := open()
		if err != nil {
			return err
		}
		return reader.Copy(ctx, back, 0, reader.Size())
	})
	if err != nil {
		return err
	}
	if !bytes.Equal(back.Bytes(), plain) {
		return errors.New("the decrypted data differs")
	}
	r.decrypt = append(r.decrypt, took)
	r.stored = 0
	for i, err := range chunks.ListChunks(ctx) {
		if err != nil {
			return err
		}
		r.stored += i.Bytes
	}
	return nil
}

// sealer returns a Sealer with a new tenant secret; end erases the secret.
func sealer(chunks selfenc.ChunkStore) (s *selfenc.Sealer, end func(), err error) {
	k, err := crypto.GenerateKey()
	if err != nil {
		return nil, nil, err
	}
	defer k.Erase()
	keys, err := crypto.DeriveTenantKeys(k)
	if err != nil {
		return nil, nil, err
	}
	if s, err = selfenc.NewSealer(keys, crypto.SuiteXChaCha20Poly1305, chunks, selfenc.Options{}); err != nil {
		keys.Erase()
		return nil, nil, err
	}
	return s, func() {
		s.Close()
		keys.Erase()
	}, nil
}

func median(list []cost, of func(cost) time.Duration) time.Duration {
	var all []time.Duration
	for _, c := range list {
		all = append(all, of(c))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// table returns MB/s by wall time and by processor time, and in brackets the ratio to those of the
// crate.
func table(kind string, n int, sides []side, results []result) string {
	var out strings.Builder
	fmt.Fprintf(&out, "\n%s, %d MiB\n\n", kind, n>>20)
	out.WriteString("| | stored | encrypt, MB/s | MB/CPU-s | decrypt, MB/s | MB/CPU-s |\n|---|---:|---:|---:|---:|---:|\n")
	of := []func(cost) time.Duration{func(c cost) time.Duration { return c.wall }, func(c cost) time.Duration { return c.cpu }}
	for i, s := range sides {
		fmt.Fprintf(&out, "| %s | %.4f |", s.name, float64(results[i].stored)/float64(n))
		for _, jobs := range [][2][]cost{{results[i].encrypt, results[0].encrypt}, {results[i].decrypt, results[0].decrypt}} {
			for _, f := range of {
				took, crate := median(jobs[0], f), median(jobs[1], f)
				fmt.Fprintf(&out, " %.0f (%.2f) |", float64(n)/1e6/took.Seconds(), crate.Seconds()/took.Seconds())
			}
		}
		out.WriteString("\n")
	}
	return out.String()
}

// memory makes the command encrypt and decrypt a stream, and reports its peak resident memory. It
// must run first, because a child's figure is at least that of its parent.
func memory(w io.Writer, sealvol string, n int64) (err error) {
	if n == 0 {
		return nil
	}
	dir, err := os.MkdirTemp("", "beside-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	secret, dataMap := filepath.Join(dir, "secret"), filepath.Join(dir, "map")
	key := make([]byte, crypto.KeyBytes)
	rand.Read(key)
	if err := os.WriteFile(secret, key, 0o600); err != nil {
		return err
	}
	run := func(stdin io.Reader, args ...string) (int64, error) {
		c := exec.Command(sealvol, append([]string{"selfenc", args[0], "--store", "file://" + filepath.Join(dir, "store"), "--tenant-file", secret}, args[1:]...)...)
		c.Stdin, c.Stderr = stdin, os.Stderr
		if err := c.Run(); err != nil {
			return 0, fmt.Errorf("%s: %w", args[0], err)
		}
		return c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10, nil
	}
	encrypt, err := run(io.LimitReader(&repeated{}, n), "encrypt", "--map", dataMap, "-")
	if err != nil {
		return err
	}
	decrypt, err := run(nil, "decrypt", "--force", "--output", os.DevNull, dataMap)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "a stream of %d MiB: at most %d MiB resident to encrypt it, %d to decrypt\n", n>>20, encrypt>>20, decrypt>>20)
	return err
}

// repeated repeats the same 13 chunks, so that the store stays small.
type repeated struct{ at int64 }

func (r *repeated) Read(b []byte) (int, error) {
	const period = 13 << 20
	n := min(len(b), 4096, int(4096-r.at%4096))
	x := uint64(r.at/4096%(period/4096)) + 1
	for i := range b[:n] {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	r.at += int64(n)
	return n, nil
}
