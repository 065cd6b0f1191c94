package ebs

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/backendtest"
	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

func TestMain(m *testing.M) {
	if err := ec2test.Isolate(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const (
	nodeA = "i-0123456789abcdef0"
	nodeB = "i-0123456789abcdef1"
	farC  = "i-0123456789abcdef2" // in another zone
)

// quick is the timing of tests: EC2's, a thousand times as fast.
var quick = Timing{Batch: time.Millisecond, Coalesce: 20 * time.Millisecond, CreateFirst: time.Millisecond, Poll: time.Millisecond, PollMost: 20 * time.Millisecond,
	StuckAttach: 200 * time.Millisecond, Settle: 100 * time.Millisecond, Patience: 20 * time.Second, DeviceAppear: 5 * time.Second}

// newEC2 starts a simulated EC2 with two instances in one zone and one in another. With disks,
// volumes have data.
func newEC2(t testing.TB, o ec2test.Options, disks bool) *ec2test.Server {
	t.Helper()
	if disks {
		o.Disks = t.TempDir()
	}
	s, err := ec2test.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Consistent(); err != nil {
			t.Error(err)
		}
		for _, what := range s.Strange() {
			t.Error(what)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	s.AddInstance(ec2test.Instance{ID: nodeA})
	s.AddInstance(ec2test.Instance{ID: nodeB})
	s.AddInstance(ec2test.Instance{ID: farC, Zone: s.Region() + "b"})
	return s
}

func options(s *ec2test.Server) Options {
	return Options{Region: s.Region(), Endpoint: s.URL(), MetadataEndpoint: s.URL(), Cluster: "test", Zone: s.Region() + "a", Sys: s.Sys(), Links: s.Links(), Timing: quick, MaxAttempts: 1}
}

func open(t testing.TB, o Options) *Backend {
	t.Helper()
	b, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// slow are delays that are longer than a poll, with outdated describes.
var slow = ec2test.Delays{Create: 8 * time.Millisecond, Delete: 5 * time.Millisecond, Attach: 8 * time.Millisecond, Detach: 8 * time.Millisecond,
	Modify: 8 * time.Millisecond, Optimize: 5 * time.Millisecond, Snapshot: 10 * time.Millisecond, Lag: 3 * time.Millisecond}

func TestBackend(t *testing.T) {
	for name, d := range map[string]ec2test.Delays{"at once": {}, "slow and late": slow} {
		t.Run(name, func(t *testing.T) {
			backendtest.Run(t, backendtest.Setup{
				New: func(t *testing.T) backend.Backend {
					return open(t, options(newEC2(t, ec2test.Options{Delays: d}, true)))
				},
				SizeBytes: 8 * gib, AlignBytes: gib, MinBytes: gib, OtherNode: nodeB,
			})
		})
	}
}
