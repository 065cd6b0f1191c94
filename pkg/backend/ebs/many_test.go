package ebs

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

// realistic is how long EC2 takes.
var realistic = ec2test.Delays{Create: 1500 * time.Millisecond, Attach: 2 * time.Second, Detach: 2 * time.Second, Lag: 300 * time.Millisecond, Answer: 60 * time.Millisecond}

// TestDescribesPerVolume: 200 volumes are created, attached and detached with the timing of real
// users, by as many workers as the sidecars have. All describes together are fewer than two for
// each volume. The time is that of synctest, so the counts do not depend on the machine.
func TestDescribesPerVolume(t *testing.T) {
	for _, workers := range []int{200, 10} {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			s := newEC2(t, ec2test.Options{Delays: realistic}, false) // it waits for connections, which synctest's clock would not pass over
			synctest.Test(t, func(t *testing.T) { many(t, s, 200, workers) })
		})
	}
}

func many(t *testing.T, s *ec2test.Server, volumes, workers int) {
	var on []string
	for range 8 { // of 32 attachments each
		on = append(on, s.AddInstance(ec2test.Instance{Type: "m7i.large"}))
	}
	o := options(s)
	o.Timing, o.MaxAttempts, o.HTTPClient = DefaultTiming, 8, s
	b := open(t, o)
	ids, before := make([]string, volumes), 0
	for _, phase := range []struct {
		name string
		do   func(i int) error
	}{
		{"create", func(i int) error {
			v, err := b.Create(t.Context(), spec(fmt.Sprint("v", i)))
			ids[i] = v.ID
			return err
		}},
		{"publish", func(i int) error { // like pkg/csi
			if _, err := b.Get(t.Context(), ids[i]); err != nil {
				return err
			}
			_, err := b.Attach(t.Context(), ids[i], on[i%len(on)], false)
			return err
		}},
		{"unpublish", func(i int) error { return b.Detach(t.Context(), ids[i], on[i%len(on)]) }},
	} {
		took := atOnce(t, volumes, workers, phase.do)
		n := describes(s) - before
		before += n
		t.Logf("%d volumes, %d workers: %s p50 %v, p99 %v, %.2f describes a volume", volumes, workers, phase.name, took[volumes/2], took[volumes*99/100], float64(n)/float64(volumes))
	}
	if n := describes(s); n >= 2*volumes {
		t.Errorf("%d describes for %d volumes", n, volumes)
	}
	for action, most := range map[string]int{"CreateVolume": volumes, "AttachVolume": volumes, "DetachVolume": volumes} {
		if n := s.Counts()[action]; n != most {
			t.Errorf("%d times %s", n, action)
		}
	}
}

// atOnce runs n calls with some workers, and returns how long each took, sorted.
func atOnce(t *testing.T, n, workers int, do func(i int) error) []time.Duration {
	took, next := make([]time.Duration, n), make(chan int)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range next {
				begin := time.Now()
				if err := do(i); err != nil {
					t.Error(i, err)
				}
				took[i] = time.Since(begin)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	slices.Sort(took)
	return took
}

func describes(s *ec2test.Server) (n int) {
	for action, calls := range s.Counts() {
		if strings.HasPrefix(action, "Describe") {
			n += calls
		}
	}
	return n
}
