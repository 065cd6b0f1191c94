package manifest

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

var le64 = binary.LittleEndian.AppendUint64

// Card is what a list of snapshots shows: it takes the tenant secret alone.
type Card struct {
	Sealed       format.Sum // of the manifest: the rest of the handle
	Created      int64      // ns since 1970: of the state
	Finished     int64      // ns since 1970: of the upload
	LogicalBytes uint64
	StoredBytes  uint64 // added by this snapshot
	Files        uint64
	Suite        uint8 // of the manifest
	Volume       format.ID
	Parent       format.ID // zero: none
	Name         string    // given by people
	Claim        string    // namespace/name
	Host         string
	Tags         map[string]string
}

const (
	cardMagic  = "SEALVCB1"
	maxName    = 253
	maxClaim   = 2*253 + 1
	maxTags    = 64
	maxTagText = 253
)

// CheckLabel checks what people say about a snapshot: name, claim, host and tags of a card. A writer
// that learns it from SealCard has stored everything for nothing. format.ErrFormat.
func CheckLabel(name, claim, host string, tags map[string]string) error {
	if len(tags) > maxTags {
		return fmt.Errorf("%w tags: %d of them; at most %d", format.ErrFormat, len(tags), maxTags)
	}
	errs := []error{format.CheckText("name", name, maxName), format.CheckText("claim", claim, maxClaim), format.CheckText("host", host, maxName)}
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		if k == "" {
			errs = append(errs, fmt.Errorf("%w tag: its name is empty", format.ErrFormat))
		}
		errs = append(errs, format.CheckText("name of a tag", k, maxTagText), format.CheckText(fmt.Sprintf("value of the tag %.64q", k), tags[k], maxTagText))
	}
	return cmp.Or(errs...)
}

func (c *Card) encode() ([]byte, error) {
	b := append([]byte(cardMagic), 1, c.Suite, 0, 0)
	b = append(append(append(b, c.Sealed[:]...), c.Volume[:]...), c.Parent[:]...)
	for _, v := range []uint64{uint64(c.Created), uint64(c.Finished), c.LogicalBytes, c.StoredBytes, c.Files} {
		b = le64(b, v)
	}
	texts := []string{c.Name, c.Claim, c.Host}
	for _, k := range slices.Sorted(maps.Keys(c.Tags)) {
		texts = append(texts, k, c.Tags[k])
	}
	for _, s := range texts {
		b = format.AppendText(b, s)
	}
	again, err := decodeCard(b)
	if err == nil && len(again.Tags) != len(c.Tags) {
		err = fmt.Errorf("%w card: %d tags", format.ErrFormat, len(c.Tags))
	}
	return b, err
}

func decodeCard(b []byte) (*Card, error) {
	r := format.NewReader("card body", cardMagic, b)
	c := &Card{}
	v := r.U8()
	c.Suite = r.U8()
	r.Zeros(2)
	if v != 1 || c.Suite == 0 {
		r.Fail("version %d, suite %d", v, c.Suite)
	}
	c.Sealed, c.Volume, c.Parent = r.Sum(), r.ID(), r.ID()
	c.Created, c.Finished = int64(r.U64()), int64(r.U64())
	c.LogicalBytes, c.StoredBytes, c.Files = r.U64(), r.U64(), r.U64()
	c.Name, c.Claim, c.Host = r.Text(maxName), r.Text(maxClaim), r.Text(maxName)
	last := ""
	for r.Err() == nil && r.Left() > 0 {
		k, value := r.Text(maxTagText), r.Text(maxTagText)
		if c.Tags == nil {
			c.Tags = map[string]string{}
		}
		if k <= last || len(c.Tags) == maxTags {
			r.Fail("tag %q after %q, the %dth", k, last, len(c.Tags)+1)
		}
		c.Tags[k], last = value, k
	}
	if err := r.End(); err != nil {
		return nil, err
	}
	return c, nil
}

// SealCard returns the object of a card of snapshot s.
func SealCard(keys *crypto.TenantKeys, suite crypto.Suite, s format.ID, c *Card) ([]byte, error) {
	body, err := c.encode()
	if err != nil {
		return nil, err
	}
	sealed, err := keys.SealRecord(suite, crypto.RecordCard, crypto.UUID(s), body)
	if err != nil {
		return nil, err
	}
	object := format.EncodeCard(uint8(suite), sealed)
	if _, _, err := format.DecodeCard(object); err != nil { // too long
		return nil, err
	}
	return object, nil
}

// OpenCard opens the card of snapshot s. ErrTenant.
func OpenCard(keys *crypto.TenantKeys, s format.ID, object []byte) (*Card, error) {
	suite, sealed, err := format.DecodeCard(object)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", s, err)
	}
	body, err := keys.OpenRecord(crypto.Suite(suite), crypto.RecordCard, crypto.UUID(s), sealed)
	if errors.Is(err, crypto.ErrAuthentication) {
		return nil, fmt.Errorf("card of snapshot %s: %w: it is another tenant's, another snapshot's or damaged: %w", s, ErrTenant, err)
	}
	if err != nil {
		return nil, err
	}
	c, err := decodeCard(body)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", s, err)
	}
	return c, nil
}

// Check compares a card with the manifest that was read beside it.
func (c *Card) Check(h *format.Head) error {
	if c.Sealed != h.Sealed || c.Suite != h.Suite || c.Parent != h.Parent {
		return fmt.Errorf("snapshot %s: %w: the card names another manifest", h.S, ErrExchanged)
	}
	return nil
}
