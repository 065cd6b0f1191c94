package ebs

import (
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

// TestAttachLimits: the limit is computed from the instance, and EC2 accepts exactly that many
// volumes.
func TestAttachLimits(t *testing.T) {
	for _, c := range []struct {
		kind  string
		enis  int
		other int // volumes of others, besides the root volume
		want  int64
	}{
		{"m5.large", 1, 0, 26}, {"m5.large", 3, 0, 24}, {"m5.large", 3, 2, 22}, {"m5d.large", 1, 0, 25}, // shared with interfaces and local disks
		{"m5d.24xlarge", 1, 0, 22}, {"m5d.24xlarge", 4, 1, 18}, {"i3en.24xlarge", 1, 0, 18}, {"g4dn.xlarge", 1, 0, 24}, {"d3.8xlarge", 1, 0, 2}, {"m5.metal", 1, 0, 30},
		{"m7i.large", 3, 0, 31}, {"m7i.large", 1, 4, 27}, {"p4d.24xlarge", 4, 0, 27}, // not shared
		{"t3.old", 2, 0, 25}, {"i3en.old", 2, 0, 17}, {"m3.old", 2, 0, 39}, // EC2 does not say
		{"m4.large", 2, 0, 39}, {"i3.16xlarge", 2, 0, 39}, // Xen
		{"r8gb.metal-48xl", 1, 0, 77}, // two cards
	} {
		t.Run(fmt.Sprint(c.kind, c.enis, c.other), func(t *testing.T) {
			s := newEC2(t, ec2test.Options{}, false)
			node := s.AddInstance(ec2test.Instance{Type: c.kind, ENIs: c.enis})
			s.SetMetadataOf(node)
			for i := range c.other {
				s.AttachForeign(node, fmt.Sprintf("/dev/xvd%c", 'f'+i))
			}
			o := options(s)
			b := open(t, o)
			info := must(b.Info(t.Context()))
			if info.MaxVolumes != c.want || info.ID != node || info.Topology[zoneKey] != s.Region()+"a" {
				t.Fatalf("%+v, want %d", info, c.want)
			}
			var wg sync.WaitGroup
			for i := range c.want {
				wg.Go(func() {
					v, err := b.Create(t.Context(), spec(fmt.Sprint("v", i)))
					if err == nil {
						_, err = b.Attach(t.Context(), v.ID, node, false)
					}
					if err != nil {
						t.Error(i, err)
					}
				})
			}
			wg.Wait()
			if again := must(b.Info(t.Context())).MaxVolumes; again != c.want {
				t.Errorf("with its volumes attached the node says %d", again)
			}
			v := mustCreate(t, b, spec("one more"))
			_, err := b.Attach(t.Context(), v.ID, node, false)
			wantErr(t, err, backend.ErrTooManyAttached)
		})
	}
}

// TestLimitsWithoutEC2: a node without access to EC2 counts its local disks once, and its network
// interfaces each time.
func TestLimitsWithoutEC2(t *testing.T) {
	s := newEC2(t, ec2test.Options{}, false)
	s.SetFault(func(ec2test.Call) ec2test.Fault {
		return ec2test.Fault{Code: "UnauthorizedOperation", Status: http.StatusForbidden}
	})
	node := s.AddInstance(ec2test.Instance{Type: "m5d.24xlarge", ENIs: 2})
	s.SetMetadataOf(node)
	k := newKernel(t)
	k.sys("nvme0n1", "device/model", ebsModel)
	for i := 1; i <= 4; i++ {
		k.sys(fmt.Sprintf("nvme%dn1", i), "device/model", localModel+"        ")
	}
	o := options(s)
	o.Sys = filepath.Join(k.dir, "sys")
	b := open(t, o)
	for interfaces, want := range map[int]int64{1: 22, 2: 21, 5: 18} {
		s.SetInterfaces(node, interfaces)
		if got := must(b.Info(t.Context())).MaxVolumes; got != want || got != int64(ec2test.InstanceTypes["m5d.24xlarge"].Max-1-(interfaces-1)) {
			t.Errorf("%d interfaces: %d volumes, want %d", interfaces, got, want)
		}
	}
}

// TestRecordedMachines: EC2's descriptions of some types, and how many volumes fit beside the root
// volume of an instance with one network interface.
func TestRecordedMachines(t *testing.T) {
	const nitro, xen, metal = types.InstanceTypeHypervisorNitro, types.InstanceTypeHypervisorXen, types.InstanceTypeHypervisor("")
	for _, c := range []struct {
		name       string
		hypervisor types.InstanceTypeHypervisor
		limit      types.AttachmentLimitType
		most       int32
		local      int32
		want, more int64 // with one interface, and with four
	}{
		{"t3.micro", nitro, types.AttachmentLimitTypeShared, 27, 0, 26, 23},
		{"c5d.large", nitro, types.AttachmentLimitTypeShared, 26, 1, 25, 22},
		{"m5d.24xlarge", nitro, types.AttachmentLimitTypeShared, 23, 4, 22, 19},
		{"i3en.24xlarge", nitro, types.AttachmentLimitTypeShared, 19, 8, 18, 15},
		{"g4dn.xlarge", nitro, types.AttachmentLimitTypeShared, 25, 1, 24, 21},
		{"g5.48xlarge", nitro, types.AttachmentLimitTypeShared, 9, 2, 8, 5},
		{"p3dn.24xlarge", nitro, types.AttachmentLimitTypeShared, 17, 2, 16, 13},
		{"d3.8xlarge", nitro, types.AttachmentLimitTypeShared, 3, 24, 2, 1}, // never 0, which means no limit
		{"m5.metal", metal, types.AttachmentLimitTypeShared, 31, 0, 30, 27},
		{"i3en.metal", metal, types.AttachmentLimitTypeShared, 31, 8, 30, 27},
		{"m7i.large", nitro, types.AttachmentLimitTypeDedicated, 32, 0, 31, 31},
		{"p4d.24xlarge", nitro, types.AttachmentLimitTypeDedicated, 28, 8, 27, 27},
		{"r8gb.metal-48xl", metal, types.AttachmentLimitTypeDedicated, 78, 0, 77, 77},
		{"m4.large", xen, types.AttachmentLimitTypeShared, 40, 0, 39, 39},
		{"i3.16xlarge", xen, types.AttachmentLimitTypeShared, 40, 8, 39, 39},
		{"one that is not told", nitro, "", 0, 2, 24, 21},
	} {
		info := types.InstanceTypeInfo{Hypervisor: c.hypervisor, EbsInfo: &types.EbsInfo{AttachmentLimitType: c.limit, MaximumEbsAttachments: optional(c.most)}}
		if c.local > 0 {
			info.InstanceStorageInfo = &types.InstanceStorageInfo{NvmeSupport: types.EphemeralNvmeSupportRequired, Disks: []types.DiskInfo{{Count: aws.Int32(c.local)}}}
		}
		m := readMachine(info)
		if got, more := m.room(1, 1), m.room(4, 1); got != c.want || more != c.more {
			t.Errorf("%s: %d, want %d; with four interfaces %d, want %d", c.name, got, c.want, more, c.more)
		}
	}
}
