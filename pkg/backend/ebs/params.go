package ebs

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/sealvol/sealvol/pkg/backend"
)

// The parameters of this backend in a StorageClass; a VolumeAttributesClass may have the first
// three.
const (
	paramType       = "type"
	paramIOPS       = "iops"
	paramThroughput = "throughput" // MiB/s
	paramIOPSPerGB  = "iopsPerGB"  // it means GiB; other drivers use this name
	paramEncrypted  = "encrypted"
	paramKMSKey     = "kmsKeyId"
	paramTag        = "tagSpecification_" // followed by a number or name; the value is key=value
)

// class holds the parsed parameters.
type class struct {
	kind                        types.VolumeType // "": unchanged
	iops, throughput, iopsPerGB int32            // 0: not set
	encrypted                   *bool
	kmsKey                      string
	tags                        map[string]string
}

// defaultType is the type of a volume whose class has none.
const defaultType = types.VolumeTypeGp3

// Parameter implements backend.Tunable.
func (b *Backend) Parameter(key string) (own, mutable bool) {
	switch key {
	case paramType, paramIOPS, paramThroughput:
		return true, true
	case paramIOPSPerGB, paramEncrypted, paramKMSKey:
		return true, false
	}
	return strings.HasPrefix(key, paramTag) && key != paramTag, false
}

// parseClass parses parameters. It only checks their form, because EC2 knows what it allows.
func (b *Backend) parseClass(m map[string]string, mutable bool) (c class, err error) {
	for k, v := range m {
		own, may := b.Parameter(k)
		if !own || mutable && !may {
			return class{}, fmt.Errorf("%w: unknown parameter %s", backend.ErrInvalid, k)
		}
		switch k {
		case paramType:
			c.kind = types.VolumeType(v)
			if !plain.MatchString(v) || len(v) > 32 {
				err = fmt.Errorf("%w: %s must be the name of a volume type", backend.ErrInvalid, k)
			}
		case paramIOPS:
			c.iops, err = positive(k, v)
		case paramThroughput:
			c.throughput, err = positive(k, v)
		case paramIOPSPerGB:
			c.iopsPerGB, err = positive(k, v)
		case paramEncrypted:
			var on bool
			if on, err = strconv.ParseBool(v); err != nil {
				err = fmt.Errorf("%w: %s must be true or false", backend.ErrInvalid, k)
			}
			c.encrypted = &on
		case paramKMSKey:
			if c.kmsKey = v; v == "" || len(v) > 2048 {
				err = fmt.Errorf("%w: %s must be a key's id, alias or ARN", backend.ErrInvalid, k)
			}
		default:
			err = c.addTag(k, v)
		}
		if err != nil {
			return class{}, err
		}
	}
	return c, c.check()
}

// addTag parses a tag of a StorageClass.
func (c *class) addTag(param, text string) error {
	k, v, ok := strings.Cut(text, "=")
	if !ok {
		return fmt.Errorf("%w: %s must be a tag's key=value", backend.ErrInvalid, param)
	}
	if err := checkTag(k, v); err != nil {
		return fmt.Errorf("%w: %s: %w", backend.ErrInvalid, param, err)
	}
	if _, twice := c.tags[k]; twice {
		return fmt.Errorf("%w: %s: another parameter sets the same tag", backend.ErrInvalid, param)
	}
	if c.tags == nil {
		c.tags = map[string]string{}
	}
	c.tags[k] = v
	return nil
}

func (c class) check() error {
	if c.iops != 0 && c.iopsPerGB != 0 {
		return fmt.Errorf("%w: %s and %s cannot be used together", backend.ErrInvalid, paramIOPS, paramIOPSPerGB)
	}
	if c.kmsKey != "" && (c.encrypted == nil || !*c.encrypted) {
		return fmt.Errorf(`%w: %s requires %s: "true"`, backend.ErrInvalid, paramKMSKey, paramEncrypted)
	}
	return nil
}

// with returns c, changed by the values that are set in m.
func (c class) with(m class) class {
	if m.kind != "" {
		c.kind = m.kind
	}
	if m.iops != 0 {
		c.iops, c.iopsPerGB = m.iops, 0
	}
	if m.throughput != 0 {
		c.throughput = m.throughput
	}
	return c
}

func positive(key, s string) (int32, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("%w: %s must be a positive number", backend.ErrInvalid, key)
	}
	return int32(n), nil
}
