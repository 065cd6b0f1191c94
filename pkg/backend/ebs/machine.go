package ebs

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// machine is what an instance type can hold.
type machine struct {
	most int64 // volumes of an instance with one network interface
	// interfaces: each further one takes the place of a volume.
	interfaces bool
	cards      int32
}

// What is usual (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/volume_limits.html).
const (
	nitroSlots = 28 // of an instance whose volumes share them with network interfaces and local disks
	xenDefault = 40
)

// usual is a machine of which EC2 does not tell how many volumes it holds. Local disks are those
// that it is known to have.
func usual(local int64) machine {
	return machine{most: max(nitroSlots-1-local, 1), interfaces: true, cards: 1}
}

// machineOf asks EC2 about an instance type.
func (b *Backend) machineOf(ctx context.Context, kind string) (machine, error) {
	if m, ok := b.types.get(kind); ok {
		return m, nil
	}
	unlock, err := b.onceLocks.lock(ctx, kind) // many ask at once when nodes come
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

// readMachine reads what EC2 tells of a type. The maximum that it tells has the local disks, the
// accelerators and the first network interface of shared types taken off already: recorded data of
// 531 shared types of Nitro agree, but for a dozen with accelerators. On Xen, whose types are
// called shared as well, network interfaces are not attachments.
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

// room is how many volumes of ours such an instance can hold, with so many network interfaces and
// volumes of others.
func (m machine) room(interfaces, others int64) int64 {
	n := m.most - others
	if m.interfaces {
		n -= max(interfaces-1, 0)
	}
	return max(n, 1) // 0 would mean no limit
}

// cards is how many EBS cards an instance has; if EC2 does not tell, the first is used.
func (b *Backend) cards(ctx context.Context, i types.Instance) int32 {
	m, err := b.machineOf(ctx, string(i.InstanceType))
	if err != nil {
		return 1
	}
	return m.cards
}
