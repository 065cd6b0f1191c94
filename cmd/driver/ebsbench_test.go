package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

// BenchmarkEBS200 makes 200 volumes on an EC2 that takes as long as the real one, and has them attached to eight machines, staged, published and read from by the
// driver with real mount servers: all eight are this machine. It tells how long that takes from ControllerPublishVolume on, with as many workers as
// the external-attacher has and with all volumes at once, and what it asks of EC2. `make bench-ebs`.
func BenchmarkEBS200(b *testing.B) {
	for _, workers := range []int{10, 200} {
		b.Run(fmt.Sprint("workers=", workers), func(b *testing.B) {
			for range b.N {
				mountMany(b, 200, workers)
			}
		})
	}
}

func mountMany(b *testing.B, volumes, workers int) {
	b.Setenv(envEngine, "1")
	b.Setenv(envPatient, "1")
	r := newRigFor(b, 20*time.Minute)
	r.patience = 5 * time.Minute
	s := newEC2(b, r.path("ec2"))
	s.SetDelays(ec2test.Delays{Create: 1500 * time.Millisecond, Attach: 2 * time.Second, Detach: 2 * time.Second, Lag: 300 * time.Millisecond, Answer: 60 * time.Millisecond})
	var nodes []string
	for range 8 { // of 32 attachments each
		nodes = append(nodes, s.AddInstance(ec2test.Instance{Type: "m7i.large"}))
	}
	r.backend = s.args
	r.start("all", 0)
	r.connect("all", "all")
	list := make([]*ebsVolume, volumes)
	took := map[string][]time.Duration{}
	var mu sync.Mutex
	timed := func(what string, do func() error) func() error {
		return func() error {
			begin := time.Now()
			err := do()
			mu.Lock()
			defer mu.Unlock()
			took[what] = append(took[what], time.Since(begin))
			return err
		}
	}
	each := func(steps func(v *ebsVolume, node string) []func() error) map[string]int {
		before := s.Counts()
		next := make(chan int)
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for i := range next {
					for n, step := range steps(list[i], nodes[i%len(nodes)]) {
						if err := step(); err != nil {
							b.Errorf("volume %d, step %d: %v", i, n, err)
							break
						}
					}
				}
			})
		}
		for i := range list {
			next <- i
		}
		close(next)
		wg.Wait()
		calls := s.Counts()
		for action := range calls {
			calls[action] -= before[action]
		}
		return calls
	}
	for i := range list {
		list[i] = &ebsVolume{ctrl: r.ctrl, node: r.node, r: r, name: fmt.Sprint("pvc", i)}
	}
	made := each(func(v *ebsVolume, _ string) []func() error { return []func() error{v.create} })
	attached := each(func(v *ebsVolume, node string) []func() error {
		attach := timed("attach", func() error { return v.attach(node) })
		mount := timed("mount", func() error {
			err := v.stage()
			for status.Code(err) == codes.Unavailable { // one mounter does the work of eight
				err = v.stage()
			}
			if err != nil {
				return err
			}
			if err := v.mount(); err != nil {
				return err
			}
			_, err = os.ReadDir(v.target())
			return err
		})
		whole := timed("publish-to-mounted", func() error {
			if err := attach(); err != nil {
				return err
			}
			return mount()
		})
		return []func() error{whole, func() error { return writeDurably(filepath.Join(v.target(), "file"), []byte(v.name)) }}
	})
	gone := each(func(v *ebsVolume, node string) []func() error {
		return []func() error{func() error { return sameFile(filepath.Join(v.target(), "file"), []byte(v.name)) }, v.unmount, v.unstage,
			func() error { return v.detach(node) }, v.remove}
	})
	for what, l := range took {
		slices.Sort(l)
		b.ReportMetric(float64(l[len(l)/2].Milliseconds()), what+"-p50-ms")
		b.ReportMetric(float64(l[len(l)*99/100].Milliseconds()), what+"-p99-ms")
	}
	for i, calls := range []map[string]int{made, attached, gone} {
		for _, action := range slices.Sorted(maps.Keys(calls)) {
			if calls[action] > 0 {
				b.ReportMetric(float64(calls[action])/float64(volumes), []string{"create", "publish", "unpublish"}[i]+"-"+action+"/volume")
			}
		}
	}
}
