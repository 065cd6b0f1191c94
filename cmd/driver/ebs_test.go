package main

import (
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/backend/ebs"
	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

// ebsSkips are specs of csi-sanity that need what EBS does not have: nobody knows how much room there is.
var ebsSkips = []string{"GetCapacity not supported"}

// quickEBS is EC2's timing, a hundred times as fast.
var quickEBS = ebs.Timing{Batch: 5 * time.Millisecond, Coalesce: 20 * time.Millisecond, CreateFirst: 10 * time.Millisecond, Poll: 10 * time.Millisecond, PollMost: 100 * time.Millisecond,
	StuckAttach: time.Second, Settle: 300 * time.Millisecond, Patience: 10 * time.Second, DeviceAppear: 5 * time.Second}

const ebsNode = "i-0123456789abcdef0"

// standIn is an EC2 of this test's, with block devices.
type standIn struct {
	*ec2test.Server
	args []string // for the driver
}

func newEC2(t *testing.T, dir string) standIn {
	t.Helper()
	s, err := ec2test.New(ec2test.Options{Disks: dir, Delays: ec2test.Delays{Create: 30 * time.Millisecond, Attach: 30 * time.Millisecond, Detach: 30 * time.Millisecond,
		Modify: 30 * time.Millisecond, Optimize: 20 * time.Millisecond, Snapshot: 30 * time.Millisecond, Lag: 10 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Consistent(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	s.AddInstance(ec2test.Instance{ID: ebsNode})
	s.AddInstance(ec2test.Instance{ID: "i-0123456789abcdef1"})
	return standIn{s, []string{"--backend", "ebs", "--cluster-id", "test", "--aws-region", s.Region(), "--aws-ec2-endpoint", s.URL(), "--aws-metadata-endpoint", s.URL(),
		"--zone", s.Region() + "a", "--sys-dir", s.Sys(), "--links-dir", s.Links()}}
}
