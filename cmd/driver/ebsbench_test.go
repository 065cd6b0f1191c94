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

// BenchmarkEBS200 creates 200 volumes on an EC2 that takes as long as the real one. The driver then
// attaches them to eight machines, stages, publishes and reads them with real mount servers; all
// eight are this machine. It reports how long this takes from ControllerPublishVolume on, with as
// many workers as the external-attacher has and with all volumes at once, and the number of calls
// to EC2. `make bench-ebs`.
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
	m := &manyVolumes{b: b, workers: workers, took: map[string][]time.Duration{}}
	m.ec2 = newEC2(b, r.path("ec2"))
	m.ec2.SetDelays(ec2test.Delays{Create: 1500 * time.Millisecond, Attach: 2 * time.Second, Detach: 2 * time.Second, Lag: 300 * time.Millisecond, Answer: 60 * time.Millisecond})
	for range 8 { // of 32 attachments each
		m.nodes = append(m.nodes, m.ec2.AddInstance(ec2test.Instance{Type: "m7i.large"}))
	}
	r.backend = m.ec2.args
	r.start("all", 0)
	r.connect("all", "all")
	for i := range volumes {
		m.list = append(m.list, &ebsVolume{ctrl: r.ctrl, node: r.node, r: r, name: fmt.Sprint("pvc", i)})
	}
	made := m.each(func(v *ebsVolume, _ string) []func() error { return []func() error{v.create} })
	attached := m.each(m.publish)
	gone := m.each(func(v *ebsVolume, node string) []func() error {
		return []func() error{func() error { return sameFile(filepath.Join(v.target(), "file"), []byte(v.name)) }, v.unmount, v.unstage,
			func() error { return v.detach(node) }, v.remove}
	})
	for what, l := range m.took {
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

// manyVolumes are volumes for which workers make the same calls.
type manyVolumes struct {
	b       *testing.B
	ec2     standIn
	nodes   []string
	list    []*ebsVolume
	workers int

	mu   sync.Mutex
	took map[string][]time.Duration // guarded by mu
}

// timed records how long a call takes.
func (m *manyVolumes) timed(what string, do func() error) error {
	begin := time.Now()
	err := do()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.took[what] = append(m.took[what], time.Since(begin))
	return err
}

// each makes the calls for each volume, and returns how many calls to EC2 they caused.
func (m *manyVolumes) each(steps func(v *ebsVolume, node string) []func() error) map[string]int {
	before := m.ec2.Counts()
	next := make(chan int)
	var wg sync.WaitGroup
	for range m.workers {
		wg.Go(func() {
			for i := range next {
				for n, step := range steps(m.list[i], m.nodes[i%len(m.nodes)]) {
					if err := step(); err != nil {
						m.b.Errorf("volume %d, step %d: %v", i, n, err)
						break
					}
				}
			}
		})
	}
	for i := range m.list {
		next <- i
	}
	close(next)
	wg.Wait()
	calls := m.ec2.Counts()
	for action := range calls {
		calls[action] -= before[action]
	}
	return calls
}

// publish attaches and mounts a volume, and writes a file.
func (m *manyVolumes) publish(v *ebsVolume, node string) []func() error {
	mount := func() error {
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
	}
	whole := func() error {
		if err := m.timed("attach", func() error { return v.attach(node) }); err != nil {
			return err
		}
		return m.timed("mount", mount)
	}
	return []func() error{func() error { return m.timed("publish-to-mounted", whole) },
		func() error { return writeDurably(filepath.Join(v.target(), "file"), []byte(v.name)) }}
}
