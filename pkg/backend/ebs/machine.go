package ebs

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// machine says how many volumes an instance type can have.
type machine struct {
	most int64 // number of volumes of an instance with one network interface
	// interfaces says that each further interface uses the slot of a volume.
	interfaces bool
	cards      int32
}

// Default values (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/volume_limits.html).
const (
	nitroSlots = 28 // of an instance whose volumes share the slots with network interfaces and local disks
	xenDefault = 40
)

// usual returns the default for a type about which EC2 says nothing. local is the number of its
// local disks.
func usual(local int64) machine {
	return machine{most: max(nitroSlots-1-local, 1), interfaces: true, cards: 1}
}

// machineOf asks EC2 about an instance type.
func (b *Backend) machineOf(ctx context.Context, kind string) (machine, error) {
	if m, ok := b.types.get(kind); ok {
		return m, nil
	}
	unlock, err := b.onceLocks.lock(ctx, kind) // many nodes ask at once when they start
	if err != nil {
		return machine{}, err
	}
	defer unlock()
	if m, ok := b.types.get(kind); ok {
		return m, nil
	}
	out, err := b.ec2.DescribeInstanceTypes(ctx, &ec2.DescribeInstanceTypesInput{InstanceTypes: []types.InstanceType{types.InstanceType(kind)}})
	if err != nil {
		return machine{}, translate("DescribeInstanceTypes", err)
	}
	m := usual(0)
	if len(out.InstanceTypes) == 1 {
		m = readMachine(out.InstanceTypes[0])
	}
	b.types.set(kind, m)
	return m, nil
}

// readMachine reads EC2's description of a type. For shared types, EC2's maximum already excludes
// the local disks, the accelerators and the first network interface: recorded data of 531 shared
// Nitro types agree, except for a dozen with accelerators. Xen types also call themselves shared,
// but there network interfaces do not count.
func readMachine(t types.InstanceTypeInfo) machine {
	local := int64(0)
	if s := t.InstanceStorageInfo; s != nil && s.NvmeSupport == types.EphemeralNvmeSupportRequired {
		for _, d := range s.Disks {
			local += int64(aws.ToInt32(d.Count))
		}
	}
	m := usual(local)
	if t.Hypervisor == types.InstanceTypeHypervisorXen {
		m.most, m.interfaces = xenDefault, false
	}
	if e := t.EbsInfo; e != nil {
		if n := aws.ToInt32(e.MaximumEbsAttachments); n > 0 {
			m.most = int64(n)
			m.interfaces = m.interfaces && e.AttachmentLimitType != types.AttachmentLimitTypeDedicated
		}
		m.cards = max(aws.ToInt32(e.MaximumEbsCards), 1)
	}
	return m
}

// room returns how many volumes of the driver an instance can have, given its numbers of network
// interfaces and of other volumes.
func (m machine) room(interfaces, others int64) int64 {
	n := m.most - others
	if m.interfaces {
		n -= max(interfaces-1, 0)
	}
	return max(n, 1) // 0 would mean no limit
}

// cards returns how many EBS cards an instance has. If EC2 does not say, it is one.
func (b *Backend) cards(ctx context.Context, i types.Instance) int32 {
	m, err := b.machineOf(ctx, string(i.InstanceType))
	if err != nil {
		return 1
	}
	return m.cards
}
