// Package doublecrypt_test tests format v1 against the reference implementation, doublecrypt-core.
// Each implementation reads and changes volumes that the other one has written.
package doublecrypt_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/doublecrypt"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "seed of the random tests; 0 means a seed from the time")
	roundsFlag = flag.Int("rounds", 6, "rounds of each random test")
)

// judgePath is the program that uses the reference implementation's crate. `make interop` builds
// it.
const judgePath = "../../../build/cargo/release/doublecrypt-judge"

const keyHex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

// op is a command in the form of the judge.
type op []string

func (o op) String() string { return strings.Join(o, " ") }

// side is one implementation with an open image.
type side interface {
	// do runs a command and returns its code, and the result of read and tree.
	do(t *testing.T, o op) (int, string)
	close(t *testing.T)
}

// judge is the reference implementation.
type judge struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startJudge(t *testing.T, path string, block int) side {
	t.Helper()
	if _, err := os.Stat(judgePath); err != nil {
		t.Fatalf("%v: `make interop` builds it", err)
	}
	j := &judge{cmd: exec.Command(judgePath, path, strconv.Itoa(block), keyHex)}
	var err error
	if j.in, err = j.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := j.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	j.out = bufio.NewReader(out)
	j.cmd.Stderr = os.Stderr
	if err := j.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return j
}

func (j *judge) do(t *testing.T, o op) (int, string) {
	t.Helper()
	if _, err := fmt.Fprintln(j.in, o); err != nil {
		t.Fatalf("judge: %v", err)
	}
	line, err := j.out.ReadString('\n')
	if err != nil {
		t.Fatalf("judge at %.80s: %v", o, err)
	}
	word, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	if word == "ok" {
		return 0, rest
	}
	number, text, _ := strings.Cut(rest, " ")
	code, err := strconv.Atoi(number)
	if err != nil {
		t.Fatalf("judge says %q", line)
	}
	return code, text
}

func (j *judge) close(t *testing.T) {
	t.Helper()
	if err := j.in.Close(); err != nil {
		t.Error(err)
	}
	if err := j.cmd.Wait(); err != nil {
		t.Errorf("judge: %v", err)
	}
}

// ours is this project's implementation.
type ours struct {
	dev *device.File
	key *crypto.DoublecryptKey
	c   *doublecrypt.Core
}

func startOurs(t *testing.T, path string, block int) side {
	t.Helper()
	master, err := hex.DecodeString(keyHex)
	if err != nil {
		t.Fatal(err)
	}
	key, err := crypto.NewDoublecryptKey(master)
	if err != nil {
		t.Fatal(err)
	}
	dev, err := device.Open(path, device.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return &ours{dev, key, doublecrypt.NewCore(dev, key, doublecrypt.CoreOptions{BlockBytes: block})}
}

func number(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (s *ours) do(t *testing.T, o op) (int, string) {
	t.Helper()
	var err error
	result := ""
	switch o[0] {
	case "init":
		err = s.c.InitFilesystem()
	case "open":
		err = s.c.Open()
	case "create":
		err = s.c.CreateFile(o[1])
	case "mkdir":
		err = s.c.CreateDirectory(o[1])
	case "remove":
		err = s.c.RemoveFile(o[1])
	case "rename":
		err = s.c.Rename(o[1], o[2])
	case "write":
		data, derr := hex.DecodeString(o[3])
		if derr != nil {
			t.Fatal(derr)
		}
		err = s.c.WriteFile(o[1], number(t, o[2]), data)
	case "truncate":
		err = s.c.Truncate(o[1], number(t, o[2]))
	case "read":
		b := make([]byte, number(t, o[3]))
		var n int
		n, err = s.c.ReadFile(o[1], number(t, o[2]), b)
		result = hex.EncodeToString(b[:n])
	case "flush":
		err = s.c.Flush()
	case "sync":
		err = s.c.Sync()
	case "scrub":
		err = s.c.ScrubFreeBlocks()
	case "tree":
		var lines []string
		if err = s.tree("", &lines); err == nil {
			result = strings.Join(lines, ";")
		}
	default:
		t.Fatalf("unknown command %v", o)
	}
	if err != nil {
		return int(doublecrypt.CodeOf(err)), err.Error()
	}
	return 0, result
}

func (s *ours) tree(dir string, lines *[]string) error {
	list, err := s.c.ListDirectory(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		p := strings.TrimPrefix(dir+"/"+e.Name, "/")
		if st, err := s.c.Stat(p); err != nil || st != e {
			return errors.Join(err, fmt.Errorf("stat %+v, list %+v", st, e))
		}
		if e.Dir {
			*lines = append(*lines, fmt.Sprintf("d %d %d %s -", e.Size, e.InodeID, p))
			if err := s.tree(p, lines); err != nil {
				return err
			}
			continue
		}
		b := make([]byte, e.Size+1)
		n, err := s.c.ReadFile(p, 0, b)
		if err != nil {
			return err
		}
		*lines = append(*lines, fmt.Sprintf("f %d %d %s %x", e.Size, e.InodeID, p, b[:n]))
	}
	return nil
}

func (s *ours) close(t *testing.T) {
	t.Helper()
	if err := s.c.Close(); err != nil {
		t.Error(err)
	}
	r, err := doublecrypt.Check(s.dev, s.key, doublecrypt.CheckOptions{Data: true})
	if err != nil || !r.Clean {
		t.Errorf("check: %+v, %v", r, err)
	}
	if err := s.dev.Close(); err != nil {
		t.Error(err)
	}
	s.key.Erase()
}

func image(t *testing.T, size int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(size)); err != nil {
		t.Fatal(err)
	}
	return path
}

// paths are few, so that operations collide: files and directories have the same names, also below
// each other.
func randomPath(rng *rand.Rand) string {
	var names []string
	for range 1 + rng.IntN(3) {
		names = append(names, string(rune('a'+rng.IntN(4))))
	}
	return strings.Join(names, "/")
}

// randomOp returns an operation that is mostly valid. block limits lengths.
func randomOp(rng *rand.Rand, block int) op {
	p := randomPath(rng)
	switch rng.IntN(24) {
	case 0, 1, 2, 3:
		return op{"create", p}
	case 4, 5, 6:
		return op{"mkdir", p}
	case 7, 8, 9, 10, 11, 12:
		data := make([]byte, rng.IntN(3*block))
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		return op{"write", p, fmt.Sprint(rng.IntN(3 * block)), hex.EncodeToString(data)}
	case 13, 14:
		return op{"read", p, fmt.Sprint(rng.IntN(4 * block)), fmt.Sprint(rng.IntN(4 * block))}
	case 15, 16, 17:
		return op{"remove", p}
	case 18, 19, 20:
		return op{"rename", p, randomPath(rng)}
	case 21:
		return op{"flush"}
	case 22:
		return []op{{"create", "/"}, {"create", strings.Repeat("n", 256)}, {"mkdir", strings.Repeat("n", 300)}, {"rename", p, strings.Repeat("n", 256)},
			{"remove", ""}, {"create", "/" + p + "/"}, {"create", "a//b"}, {"write", "none", "5", ""}, {"read", "a", "0", "10"}}[rng.IntN(9)]
	}
	return []op{{"sync"}, {"scrub"}}[rng.IntN(2)]
}

func testSeed(t *testing.T) uint64 {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", seed)
	return seed
}

// volumes are large, because the reference implementation leaks blocks and fragments, and fills up
// earlier.
var volumes = []struct{ block, blocks int }{{512, 4000}, {1000, 2000}, {4096, 1500}, {65536, 300}}

func must(t *testing.T, s side, o op) string {
	t.Helper()
	code, result := s.do(t, o)
	if code != 0 {
		t.Fatalf("%.80s: code %d: %s", o, code, result)
	}
	return result
}

// TestTwins makes the same changes to two images, one with each implementation. All results must be
// equal, including codes and inode numbers. At the end, each implementation reads the other's
// image.
func TestTwins(t *testing.T) {
	seed := testSeed(t)
	for i := range *roundsFlag {
		v := volumes[i%len(volumes)]
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		a, b := image(t, v.block*v.blocks), image(t, v.block*v.blocks)
		theirs, our := startJudge(t, a, v.block), startOurs(t, b, v.block)
		must(t, theirs, op{"init"})
		must(t, our, op{"init"})
		for range 250 {
			o := randomOp(rng, v.block)
			code1, result1 := theirs.do(t, o)
			code2, result2 := our.do(t, o)
			if code1 != code2 || code1 == 0 && result1 != result2 {
				t.Fatalf("round %d: %.80s: the reference has %d %.200s, we %d %.200s", i, o, code1, result1, code2, result2)
			}
		}
		want := must(t, theirs, op{"tree"})
		if got := must(t, our, op{"tree"}); got != want {
			t.Fatalf("round %d: we have %.1000s\nthe reference %.1000s", i, got, want)
		}
		must(t, theirs, op{"sync"})
		theirs.close(t)
		our.close(t)
		theirs, our = startJudge(t, b, v.block), startOurs(t, a, v.block)
		must(t, theirs, op{"open"})
		must(t, our, op{"open"})
		for _, s := range []side{theirs, our} {
			if got := must(t, s, op{"tree"}); got != want {
				t.Fatalf("round %d: exchanged, it reads %.1000s\nnot %.1000s", i, got, want)
			}
		}
		theirs.close(t)
		our.close(t)
	}
}

// TestTurns lets both implementations write to one image in turns. Ours also truncates files, which
// the reference implementation does not support.
func TestTurns(t *testing.T) {
	seed := testSeed(t)
	for i := range *roundsFlag {
		v := volumes[i%len(volumes)]
		rng := rand.New(rand.NewPCG(seed, 1000+uint64(i)))
		path := image(t, v.block*v.blocks)
		start := []func(*testing.T, string, int) side{startJudge, startOurs}
		who := rng.IntN(2)
		s := start[who](t, path, v.block)
		must(t, s, op{"init"})
		want := ""
		for turn := range 10 {
			if turn > 0 {
				who = 1 - who
				s = start[who](t, path, v.block)
				must(t, s, op{"open"})
			}
			if got := must(t, s, op{"tree"}); got != want {
				t.Fatalf("round %d, turn %d: side %d reads %.1000s\nwant %.1000s", i, turn, who, got, want)
			}
			for range 40 {
				o := randomOp(rng, v.block)
				if who == 1 && rng.IntN(10) == 0 {
					o = op{"truncate", randomPath(rng), fmt.Sprint(rng.IntN(4 * v.block))}
				}
				s.do(t, o) // TestTwins compares the results
			}
			want = must(t, s, op{"tree"})
			must(t, s, op{"sync"})
			s.close(t)
		}
	}
}

// TestLimits tests a nearly full directory and a large file, in both directions.
func TestLimits(t *testing.T) {
	const block = 1024
	for _, who := range []int{0, 1} {
		start := []func(*testing.T, string, int) side{startJudge, startOurs}
		path := image(t, block*4000)
		s := start[who](t, path, block)
		must(t, s, op{"init"})
		names := 0
		for ; names < 40; names++ { // the reference implementation panics just before the limit; 40 avoids that
			must(t, s, op{"create", fmt.Sprintf("name%04d", names)})
		}
		data := bytes.Repeat([]byte{1, 2, 3}, 20_000)
		must(t, s, op{"write", "name0000", "7", hex.EncodeToString(data)})
		want := must(t, s, op{"tree"})
		must(t, s, op{"sync"})
		s.close(t)
		other := start[1-who](t, path, block)
		must(t, other, op{"open"})
		if got := must(t, other, op{"tree"}); got != want {
			t.Errorf("side %d reads %d bytes, want %d", 1-who, len(got), len(want))
		}
		for n := range names {
			if !slices.Contains([]int{0, -3}, first(other.do(t, op{"remove", fmt.Sprintf("name%04d", n)}))) {
				t.Errorf("remove %d", n)
			}
		}
		must(t, other, op{"sync"})
		other.close(t)
	}
}

func first(code int, _ string) int { return code }
