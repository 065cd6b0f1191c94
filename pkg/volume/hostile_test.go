package volume

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/device"
)

var (
	hostileSeed     = flag.Uint64("hostile.seed", 0, "first case of TestHostile, the others follow it; 0: a random one")
	hostileCases    = flag.Int("hostile.cases", 60, "how many cases TestHostile has")
	hostileTime     = flag.Duration("hostile.time", 0, "TestHostile goes on for so long, whatever hostile.cases says")
	hostileDeadline = flag.Duration("hostile.deadline", 90*time.Second, "after which a case of TestHostile counts as hung")
)

// hostileBytes is what a case may have on the heap at once, beside the images:
// the memory of a mount (minMemory here), which is not all on the heap, and as much again for
// what is beside it: buffers of the device, the device's own writes, what fsck keeps.
const hostileBytes = 3 * minMemory

// hostileWorker marks the process that the cases run in.
const hostileWorker = "SEALVOL_HOSTILE_WORKER"

// TestHostile gives volumes to be mounted, used and checked whose structures somebody
// has changed who has the key: everything verifies. Whatever they hold, nothing panics
// or hangs, and memory stays bounded. A case is its seed: it chooses an image, what is
// changed, and what is done with it. The cases run in a process of their own, so that
// one that ends it can be named.
func TestHostile(t *testing.T) {
	if os.Getenv(hostileWorker) != "" {
		hostileLoop(t)
		return
	}
	first := *hostileSeed
	if first == 0 {
		first = rand.Uint64() >> 16
	}
	t.Logf("seeds from %d on", first)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestHostile$", "-test.timeout=0", fmt.Sprint("-hostile.seed=", first),
		fmt.Sprint("-hostile.cases=", fewer(*hostileCases)), fmt.Sprint("-hostile.time=", *hostileTime))
	cmd.Env = append(os.Environ(), hostileWorker+"=1")
	var diag tail
	cmd.Stderr = &diag
	out, err := cmd.StdoutPipe()
	ok(t, err)
	ok(t, cmd.Start())
	hung := false
	timer := time.AfterFunc(*hostileDeadline, func() {
		_ = cmd.Process.Signal(syscall.SIGQUIT) // it prints where it is, and ends
	})
	last, ended := "none", false
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		hung = !timer.Reset(*hostileDeadline)
		switch line := lines.Text(); {
		case strings.HasPrefix(line, "case "):
			last = line
		case strings.HasPrefix(line, "end "):
			ended = true
			t.Log(line)
		default:
			_, _ = fmt.Fprintln(&diag, line)
		}
	}
	hung = hung || !timer.Stop()
	err = cmd.Wait()
	switch {
	case hung && !ended:
		t.Fatalf("hung for %v; go test ./pkg/volume -run '^TestHostile$' -hostile.cases 1 -hostile.seed N repeats it: %s\n%s", *hostileDeadline, last, &diag)
	case err != nil || !ended:
		t.Fatalf("%v; go test ./pkg/volume -run '^TestHostile$' -hostile.cases 1 -hostile.seed N repeats it: %s\n%s", err, last, &diag)
	}
}

// tail keeps the beginning and the end of what a process says.
type tail struct{ head, rest []byte }

func (w *tail) Write(b []byte) (int, error) {
	n := len(b)
	if room := 6000 - len(w.head); room > 0 {
		k := min(room, len(b))
		w.head, b = append(w.head, b[:k]...), b[k:]
	}
	w.rest = append(w.rest, b...)
	w.rest = w.rest[max(0, len(w.rest)-2000):]
	return n, nil
}

func (w *tail) String() string { return string(w.head) + "\n" + string(w.rest) }

// hostileLoop is the worker: it runs one case after another and says which.
func hostileLoop(t *testing.T) {
	debug.SetMaxStack(64 << 20) // a recursion without end is one before it has taken all memory
	bases := hostileBases(t)
	w := watchHeap()
	defer w.stop()
	begin, count := time.Now(), 0
	tally := map[string]int{}
	for seed := *hostileSeed; ; seed++ {
		if *hostileTime > 0 && time.Since(begin) > *hostileTime || *hostileTime == 0 && count == *hostileCases {
			break
		}
		fmt.Printf("case %d\n", seed)
		w.dev.Store(nil) // what makes the case is not watched
		rng := rand.New(rand.NewPCG(seed, 11))
		base := &bases[rng.IntN(len(bases))]
		img := base.dev.Clone()
		f := newForge(t, img, rng)
		what := f.mutate()
		f.close()
		img = img.Clone() // of which each block is there once
		w.image(seed, base.dev, img)
		fmt.Printf("case %d, image %s: %s\n", seed, base.name, what)
		tally[exercise(t, img, rng)]++
		count++
	}
	fmt.Printf("end %d cases in %v: %v\n", count, time.Since(begin).Round(time.Second), tally)
}

// heapWatch ends the process when the heap has grown beyond what a case may have.
type heapWatch struct {
	base uint64 // bytes
	seed atomic.Uint64
	dev  atomic.Pointer[device.Mem]
	used atomic.Int64 // of dev when the case began
	own  atomic.Int64 // blocks of dev that are not the base's
	end  chan struct{}
}

// image tells which device is in use: it is on the heap as well.
func (w *heapWatch) image(seed uint64, base, img *device.Mem) {
	w.seed.Store(seed)
	w.used.Store(img.UsedBytes())
	w.own.Store(max(0, img.UsedBytes()-base.UsedBytes()))
	runtime.GC()
	w.dev.Store(img)
	debug.SetMemoryLimit(int64(w.limit())) // garbage goes before it counts
}

// limit is how much there may be. A block that is written is there up to three times.
func (w *heapWatch) limit() uint64 {
	grown := w.own.Load()
	if dev := w.dev.Load(); dev != nil {
		grown += 3 * (dev.UsedBytes() - w.used.Load())
	}
	return w.base + hostileBytes + uint64(max(0, grown))
}

func (w *heapWatch) stop() { close(w.end) }

func watchHeap() *heapWatch {
	runtime.GC()
	w := &heapWatch{base: hostileHeap(), end: make(chan struct{})}
	tick := time.NewTicker(10 * time.Millisecond)
	go func() {
		defer tick.Stop()
		for {
			select {
			case <-w.end:
				return
			case <-tick.C:
			}
			if w.dev.Load() == nil || hostileHeap() < w.limit() {
				continue
			}
			if runtime.GC(); hostileHeap() < w.limit() {
				continue
			}
			buf := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "case %d has %d MiB on the heap, %d MiB are the bound\n%s", w.seed.Load(), hostileHeap()>>20, w.limit()>>20,
				buf[:runtime.Stack(buf, true)])
			os.Exit(3)
		}
	}()
	return w
}

func hostileHeap() (n uint64) {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64() + s[1].Value.Uint64()
}

// hostileBase is an image that cases begin with.
type hostileBase struct {
	name string
	dev  *device.Mem
}
