package ebs

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/sealvol/sealvol/pkg/backend"
)

// Tags of our volumes and snapshots. Keys and values of EC2 have at most 128 and 256 characters, and a resource has at most 50.
const (
	tagPrefix   = "csi.sealvol.dev/"
	tagCluster  = tagPrefix + "cluster"   // whose it is
	tagName     = tagPrefix + "name"      // encoded
	tagClass    = tagPrefix + "class"     // hash of Spec.Class and Mutable at its creation
	tagSource   = tagPrefix + "source"    // id of the volume or snapshot that it is a copy of
	tagOrigin   = tagPrefix + "origin"    // backend.Volume.Origin
	tagReadOnly = tagPrefix + "read-only" // the instance that it is, or is to be, attached to read-only
	tagParam    = tagPrefix + "parameter/"

	maxTagKey, maxTagValue, maxTags = 128, 256, 50
)

// plain values stand in a tag as they are: what EC2 and its consoles show and filters take literally. Others are "b64:" and base64.
var plain = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

func encodeValue(s string) string {
	if plain.MatchString(s) {
		return s
	}
	return "b64:" + base64.RawURLEncoding.EncodeToString([]byte(s))
}

func decodeValue(s string) (string, error) {
	coded, ok := strings.CutPrefix(s, "b64:")
	if !ok {
		return s, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(coded)
	if err != nil {
		return "", fmt.Errorf("%w: a tag of its is not ours", backend.ErrDamaged)
	}
	return string(b), nil
}

// classOf is the hash of a class.
func classOf(class, mutable map[string]string) string {
	all := maps.Clone(class)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, mutable)
	h := sha256.New()
	for _, k := range slices.Sorted(maps.Keys(all)) {
		h.Write(fmt.Appendf(nil, "%d %s %d %s\n", len(k), k, len(all[k]), all[k]))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func tagMap(list []types.Tag) map[string]string {
	m := make(map[string]string, len(list))
	for _, t := range list {
		m[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return m
}

func tagSpec(resource types.ResourceType, m map[string]string) []types.TagSpecification {
	spec := types.TagSpecification{ResourceType: resource}
	for _, k := range slices.Sorted(maps.Keys(m)) { // in order: a repetition is to be the same request
		spec.Tags = append(spec.Tags, types.Tag{Key: aws.String(k), Value: aws.String(m[k])})
	}
	return []types.TagSpecification{spec}
}

// tagsFor are those that volumes and snapshots of ours have in common.
func (b *Backend) tagsFor(name, origin string, params map[string]string) (map[string]string, error) {
	m := maps.Clone(b.opt.Tags)
	if m == nil {
		m = map[string]string{}
	}
	m[tagCluster], m[tagName] = b.opt.Cluster, encodeValue(name)
	if origin != "" {
		m[tagOrigin] = origin
	}
	for k, v := range params {
		m[tagParam+k] = encodeValue(v)
	}
	if len(m) > maxTags-3 { // and source, class, read-only
		return nil, fmt.Errorf("%w: more parameters and tags than EC2 takes", backend.ErrInvalid)
	}
	for k, v := range m {
		if len(k) > maxTagKey || len(v) > maxTagValue {
			return nil, fmt.Errorf("%w: a parameter is too long for a tag of EC2", backend.ErrInvalid)
		}
	}
	return m, nil
}

// paramsOf reads parameters back.
func paramsOf(tags map[string]string) (map[string]string, error) {
	var params map[string]string
	for k, v := range tags {
		if key, ok := strings.CutPrefix(k, tagParam); ok {
			value, err := decodeValue(v)
			if err != nil {
				return nil, err
			}
			if params == nil {
				params = map[string]string{}
			}
			params[key] = value
		}
	}
	return params, nil
}
