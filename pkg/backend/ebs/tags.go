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

// Tags of the driver's volumes and snapshots. EC2 allows keys of 128 and values of 256 characters,
// and 50 tags per resource.
const (
	tagPrefix   = "csi.sealvol.dev/"
	tagCluster  = tagPrefix + "cluster"   // the cluster that owns it
	tagName     = tagPrefix + "name"      // encoded
	tagClass    = tagPrefix + "class"     // hash of Spec.Class and Mutable at its creation
	tagSource   = tagPrefix + "source"    // id of the volume or snapshot that it is a copy of
	tagOrigin   = tagPrefix + "origin"    // backend.Volume.Origin
	tagReadOnly = tagPrefix + "read-only" // the instance that it is, or will be, attached to read-only
	tagParam    = tagPrefix + "parameter/"

	// Tags that a node sets but never changes or removes: formatting of the device has begun, and
	// it is complete (formats.go).
	tagFormatting, tagFormatted = tagPrefix + "formatting", tagPrefix + "formatted"

	// Tags with tagPurpose and a key of backend.Purpose. Other EBS drivers and cost reports use
	// them to show what a volume is for.
	tagPurpose = "kubernetes.io/created-for/"

	maxTagKey, maxTagValue, maxTags = 128, 256, 50 // characters, characters, tags
	reservedTags                    = 5            // source, class, read-only and those of formats.go, in addition to those of tagsFor
)

// checkTag checks a user's tag against the rules of EC2 and of the driver.
func checkTag(key, value string) error {
	switch {
	case key == "" || utf8.RuneCountInString(key) > maxTagKey:
		return fmt.Errorf("the key of a tag must have 1 to %d characters", maxTagKey)
	case utf8.RuneCountInString(value) > maxTagValue:
		return fmt.Errorf("the value of the tag %q has more than %d characters", key, maxTagValue)
	case !utf8.ValidString(key) || !utf8.ValidString(value):
		return errors.New("a tag is not valid UTF-8")
	}
	for _, p := range []string{"aws:", tagPrefix, tagPurpose} {
		if strings.HasPrefix(strings.ToLower(key), p) {
			return fmt.Errorf("the key of a tag must not begin with %s: %q", p, key)
		}
	}
	return nil
}

// plain values are stored unchanged, because EC2, its console and filters take them literally.
// Other values are stored as "b64:" and base64.
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
		return "", fmt.Errorf("%w: one of its csi.sealvol.dev tags is malformed", backend.ErrDamaged)
	}
	return string(b), nil
}

// classOf returns the hash of a class.
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
	for _, k := range slices.Sorted(maps.Keys(m)) { // sorted, because a retry must send the same request
		spec.Tags = append(spec.Tags, types.Tag{Key: aws.String(k), Value: aws.String(m[k])})
	}
	return []types.TagSpecification{spec}
}

// tagsFor returns the tags that volumes and snapshots have in common. Tags of the class take
// precedence over those for all volumes. Tags for the purpose are informational, and only added if
// there is room.
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
		return nil, fmt.Errorf("%w: EC2 allows %d tags, of which the driver needs %d; with those of --volume-tags, of the class and of its parameters there would be %d",
			backend.ErrInvalid, maxTags, reservedTags, len(m)+reservedTags)
	}
	for _, k := range slices.Sorted(maps.Keys(purpose)) {
		if len(m) < maxTags-reservedTags {
			m[tagPurpose+k] = purpose[k]
		}
	}
	for k, v := range m {
		if utf8.RuneCountInString(k) > maxTagKey || utf8.RuneCountInString(v) > maxTagValue {
			return nil, fmt.Errorf("%w: %q does not fit into an EC2 tag", backend.ErrInvalid, k)
		}
	}
	return m, nil
}

// paramsOf reads the parameters from tags.
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
