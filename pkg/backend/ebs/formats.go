package ebs

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/sealvol/sealvol/pkg/backend"
)

var _ backend.FormatKeeper = (*Backend)(nil)

// FormatState implements backend.FormatKeeper with two tags. A node may set each of them and remove
// none, so the owner of a node cannot make a formatted volume look new (docs/iam/node.json).
func (b *Backend) FormatState(ctx context.Context, id string) (backend.FormatState, error) {
	if s, _ := b.formats.get(id); s == backend.FormatDone {
		return s, nil
	}
	v, found, err := b.volumes.get(ctx, id)
	if err != nil {
		return backend.FormatNone, err
	}
	if !found {
		return backend.FormatNone, fmt.Errorf("%w: EC2 does not show the volume %s", backend.ErrNotFound, id)
	}
	tags := tagMap(v.Tags)
	if tags[tagFormatted] != "" {
		b.formats.set(id, backend.FormatDone)
		return backend.FormatDone, nil
	}
	if s, _ := b.formats.get(id); s == backend.FormatBegun || tags[tagFormatting] != "" {
		return backend.FormatBegun, nil
	}
	return backend.FormatNone, nil
}

// KeepFormat implements backend.FormatKeeper.
func (b *Backend) KeepFormat(ctx context.Context, id string, s backend.FormatState) error {
	if s != backend.FormatBegun && s != backend.FormatDone {
		return fmt.Errorf("%w: format state %q", backend.ErrInvalid, s)
	}
	if now, _ := b.formats.get(id); now == s || now == backend.FormatDone {
		return nil
	}
	key := tagFormatting
	if s == backend.FormatDone {
		key = tagFormatted
	}
	_, err := b.ec2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{id}, Tags: []types.Tag{{Key: aws.String(key), Value: aws.String("true")}}})
	if err = translate("CreateTags", err); err != nil {
		return fmt.Errorf("set the tag %s: %w", key, err)
	}
	b.formats.set(id, s)
	return nil
}
