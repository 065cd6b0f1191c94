package ebs

import (
	"cmp"
	"context"
	"math"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// limits of a volume type, as EC2 states them.
type limits struct {
	minIOPS, maxIOPS, perGiB int64 // 0: unknown
}

// limitsOf learns the limits of a type: EC2 refuses absurd values and states what it would accept.
// Nothing is created (DryRun).
func (b *Backend) limitsOf(ctx context.Context, kind types.VolumeType, zone string, gib32 int32) limits {
	if l, ok := b.limits.get(string(kind)); ok {
		return l
	}
	ask := func(iops int32) {
		_, err := b.ec2.CreateVolume(ctx, &ec2.CreateVolumeInput{DryRun: aws.Bool(true), AvailabilityZone: aws.String(zone), Size: aws.Int32(gib32), VolumeType: kind, Iops: aws.Int32(iops),
			TagSpecifications: tagSpec(types.ResourceTypeVolume, map[string]string{tagCluster: b.opt.Cluster})}) // the policy in docs/iam requires this tag
		b.learn(kind, translate("CreateVolume", err)) // err may also say that the call is denied or throttled
	}
	ask(math.MaxInt32)
	ask(1)
	l, _ := b.limits.get(string(kind))
	return l
}

// iopsFor returns the IOPS of a new volume: those of the class, or iopsPerGB times the size within
// the type's limits.
func (b *Backend) iopsFor(ctx context.Context, p *plan) (int32, error) {
	c := p.class
	if c.iopsPerGB == 0 {
		return c.iops, nil
	}
	l := b.limitsOf(ctx, cmp.Or(c.kind, defaultType), p.zone, p.gib)
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return l.clamp(c.iopsPerGB, p.gib), nil
}

// clamp returns perGiB times the size, within the limits. The minimum wins, because a type accepts
// it for any size.
func (l limits) clamp(perGiB, gib32 int32) int32 {
	n := int64(perGiB) * int64(gib32)
	if l.perGiB > 0 {
		n = min(n, l.perGiB*int64(gib32))
	}
	if l.maxIOPS > 0 {
		n = min(n, l.maxIOPS)
	}
	return int32(min(max(n, l.minIOPS), math.MaxInt32))
}

// learn takes a limit of a type from EC2's refusal of a volume with that many IOPS. It returns
// false if the refusal contains nothing new.
func (b *Backend) learn(kind types.VolumeType, refusal error) bool {
	which, n, ok := limitOf(refusal)
	if !ok {
		return false
	}
	old, _ := b.limits.get(string(kind))
	l := old
	switch which {
	case limitRatio:
		l.perGiB = n
	case limitMaxIOPS:
		l.maxIOPS = n
	case limitMinIOPS:
		l.minIOPS = n
	}
	if l == old {
		return false
	}
	b.limits.set(string(kind), l)
	return true
}
