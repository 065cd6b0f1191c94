package ebs

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

// BenchmarkAttach200 makes and attaches 200 volumes at once to eight nodes of an EC2 that answers in realistic times, with the real timing, and
// tells how long Attach takes and how many describes there are for each volume. `make bench-ebs`.
func BenchmarkAttach200(b *testing.B) {
	const volumes, nodes = 200, 8
	for range b.N {
		s := newEC2(b, ec2test.Options{Delays: ec2test.Delays{Create: 1500 * time.Millisecond, Attach: 2 * time.Second, Detach: 2 * time.Second, Lag: 300 * time.Millisecond, Answer: 60 * time.Millisecond}}, false)
		var on []string
		for range nodes {
			on = append(on, s.AddInstance(ec2test.Instance{Type: "m7i.large"}))
		}
		o := options(s)
		o.Timing, o.MaxAttempts = DefaultTiming, 8
		back := open(b, o)
		made, attached := make([]time.Duration, volumes), make([]time.Duration, volumes)
		ids := make([]string, volumes)
		each := func(took []time.Duration, do func(i int) error) {
			var wg sync.WaitGroup
			for i := range volumes {
				wg.Go(func() {
					begin := time.Now()
					if err := do(i); err != nil {
						b.Error(err)
					}
					took[i] = time.Since(begin)
				})
			}
			wg.Wait()
			slices.Sort(took)
		}
		each(made, func(i int) error {
			v, err := back.Create(b.Context(), spec(fmt.Sprint("v", i)))
			ids[i] = v.ID
			return err
		})
		forCreate := describes(s)
		each(attached, func(i int) error {
			_, err := back.Attach(b.Context(), ids[i], on[i%nodes], false)
			return err
		})
		b.ReportMetric(made[volumes/2].Seconds(), "create-p50-s")
		b.ReportMetric(made[volumes*99/100].Seconds(), "create-p99-s")
		b.ReportMetric(attached[volumes/2].Seconds(), "attach-p50-s")
		b.ReportMetric(attached[volumes*99/100].Seconds(), "attach-p99-s")
		b.ReportMetric(float64(forCreate)/volumes, "create-describes/volume")
		b.ReportMetric(float64(describes(s)-forCreate)/volumes, "attach-describes/volume")
	}
}

func describes(s *ec2test.Server) (n int) {
	for action, calls := range s.Counts() {
		if strings.HasPrefix(action, "Describe") {
			n += calls
		}
	}
	return n
}
