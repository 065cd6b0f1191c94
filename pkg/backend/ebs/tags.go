package ebs

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

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

	// What a node sets, never changes and never takes off: that a volume was begun to be made on
	// the device, and that it was made (formats.go).
	tagFormatting, tagFormatted = tagPrefix + "formatting", tagPrefix + "formatted"

	// tagPurpose and a backend.Purpose are the tags by which other drivers of EBS, and who counts costs, know what a volume is for.
	tagPurpose = "kubernetes.io/created-for/"

	maxTagKey, maxTagValue, maxTags = 128, 256, 50 // characters, characters, tags
	reservedTags                    = 5            // source, class, read-only and those of formats.go come to those of tagsFor
)

// checkTag holds a tag that somebody wishes for against the rules of EC2 and ours.
func checkTag(key, value string) error {
	switch {
	case key == "" || utf8.RuneCountInString(key) > maxTagKey:
		return fmt.Errorf("a tag's key has 1 to %d characters", maxTagKey)
	case utf8.RuneCountInString(value) > maxTagValue:
		return fmt.Errorf("the value of the tag %q has more than %d characters", key, maxTagValue)
	case !utf8.ValidString(key) || !utf8.ValidString(value):
		return errors.New("a tag is not UTF-8")
	}
	for _, p := range []string{"aws:", tagPrefix, tagPurpose} {
		if strings.HasPrefix(strings.ToLower(key), p) {
			return fmt.Errorf("no tag may begin with %s: %q", p, key)
		}
	}
	return nil
}

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

// tagsFor are those that volumes and snapshots of ours have in common. Those of the class win over those of all. What it is for is for people to
// read: as far as there is room for it.
func (b *Backend) tagsFor(name, origin string, params, class map[string]string, purpose backend.Purpose) (map[string]string, error) {
	m := maps.Clone(b.opt.Tags)
	if m == nil {
		m = map[string]string{}
	}
	maps.Copy(m, class)
	m[tagCluster], m[tagName] = b.opt.Cluster, encodeValue(name)
	if origin != "" {
		m[tagOrigin] = origin
	}
	for k, v := range params {
		m[tagParam+k] = encodeValue(v)
	}
	if len(m) > maxTags-reservedTags {
		return nil, fmt.Errorf("%w: EC2 takes %d tags, of which %d are needed; with those of the flags, of the class and of its parameters there would be %d",
			backend.ErrInvalid, maxTags, reservedTags, len(m)+reservedTags)
	}
	for _, k := range slices.Sorted(maps.Keys(purpose)) {
		if len(m) < maxTags-reservedTags {
			m[tagPurpose+k] = purpose[k]
		}
	}
	for k, v := range m {
		if utf8.RuneCountInString(k) > maxTagKey || utf8.RuneCountInString(v) > maxTagValue {
			return nil, fmt.Errorf("%w: %q does not fit into a tag of EC2", backend.ErrInvalid, k)
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
