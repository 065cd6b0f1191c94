package ebs

import (
	"context"
	"math"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// limits of a volume type, as EC2 tells them.
type limits struct {
	minIOPS, maxIOPS int64 // 0: unknown
}

// limitsOf learns the limits of a type: EC2 refuses absurd values and says what it would take. Nothing is made (DryRun).
func (b *Backend) limitsOf(ctx context.Context, kind types.VolumeType, zone string, gib32 int32) limits {
	if l, ok := b.limits.get(string(kind)); ok {
		return l
	}
	ask := func(iops int32) (which string, n int64) {
		_, err := b.ec2.CreateVolume(ctx, &ec2.CreateVolumeInput{DryRun: aws.Bool(true), AvailabilityZone: aws.String(zone), Size: aws.Int32(gib32), VolumeType: kind, Iops: aws.Int32(iops),
			TagSpecifications: tagSpec(types.ResourceTypeVolume, map[string]string{tagCluster: b.opt.Cluster})}) // without which the policy in docs/iam does not allow it
		which, n, _ = limitOf(translate("CreateVolume", err))
		return which, n
	}
	var l limits
	if which, n := ask(math.MaxInt32); which == "maximum" {
		l.maxIOPS = n
	}
	if which, n := ask(1); which == "minimum" {
		l.minIOPS = n
	}
	if l != (limits{}) { // else perhaps not allowed, or throttled
		b.limits.set(string(kind), l)
	}
	return l
}

// iopsFor is what a volume is to have: what the class says, or so many a GiB, as far as the type goes.
func (b *Backend) iopsFor(ctx context.Context, p *plan) (int32, error) {
	c := p.class
	if c.iopsPerGB == 0 {
		return c.iops, nil
	}
	kind := c.kind
	if kind == "" {
		kind = defaultType
	}
	n := int64(c.iopsPerGB) * int64(p.gib)
	l := b.limitsOf(ctx, kind, p.zone, p.gib)
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	n = max(n, l.minIOPS)
	if l.maxIOPS > 0 {
		n = min(n, l.maxIOPS)
	}
	return int32(min(n, math.MaxInt32)), nil
}
