package ebs

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// machine is what an instance type can hold.
type machine struct {
	most   int64 // attachments; network interfaces and local disks count among them if shared
	shared bool
	local  int64 // local NVMe disks
	cards  int32
}

// Where EC2 does not tell (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/volume_limits.html).
const (
	sharedDefault = 28 // Nitro: with network interfaces, local disks and the root volume
	xenDefault    = 39
)

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
	m := machine{most: sharedDefault, shared: true, cards: 1}
	if len(out.InstanceTypes) == 1 {
		m = readMachine(out.InstanceTypes[0])
	}
	b.types.set(kind, m)
	return m, nil
}

func readMachine(t types.InstanceTypeInfo) machine {
	m := machine{most: sharedDefault, shared: true, cards: 1}
	if t.Hypervisor == types.InstanceTypeHypervisorXen {
		m.most, m.shared = xenDefault, false
	}
	if e := t.EbsInfo; e != nil {
		if n := aws.ToInt32(e.MaximumEbsAttachments); n > 0 {
			m.most, m.shared = int64(n), e.AttachmentLimitType != types.AttachmentLimitTypeDedicated
		}
		m.cards = max(aws.ToInt32(e.MaximumEbsCards), 1)
	}
	if s := t.InstanceStorageInfo; s != nil && s.NvmeSupport == types.EphemeralNvmeSupportRequired {
		for _, d := range s.Disks {
			m.local += int64(aws.ToInt32(d.Count))
		}
	}
	return m
}

// room is how many volumes of ours such an instance can hold.
func (m machine) room(interfaces, others int64) int64 {
	n := m.most - others
	if m.shared {
		n -= interfaces + m.local
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
