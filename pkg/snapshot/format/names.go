package format

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/sealvol/sealvol/pkg/snapshot/internal/draw"
)

// ID is the identity of a snapshot, an attempt, a store or a lineage. What the
// cryptography calls a UUID has the same bytes.
type ID [16]byte

// NewID draws an identity: a random (version 4) UUID.
func NewID() ID {
	var id ID
	draw.Bytes(id[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // RFC 9562 section 5.4
	return id
}

// String returns 32 hexadecimal digits, as in keys.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads what String wrote, nothing else.
func ParseID(s string) (id ID, err error) { return id, parseHex(id[:], s) }

// Sum is a SHA-256.
type Sum [32]byte

// SumOf returns the hash that names an object's bytes.
func SumOf(b []byte) Sum { return sha256.Sum256(b) }

// String returns 64 hexadecimal digits, as in keys.
func (s Sum) String() string { return hex.EncodeToString(s[:]) }

// ParseSum reads what String wrote, nothing else.
func ParseSum(s string) (sum Sum, err error) { return sum, parseHex(sum[:], s) }

func parseHex(dst []byte, s string) error {
	if len(s) == hex.EncodedLen(len(dst)) && strings.ToLower(s) == s {
		if _, err := hex.Decode(dst, []byte(s)); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%w name: %.70q has not %d hexadecimal digits", ErrFormat, s, hex.EncodedLen(len(dst)))
}

// Class is a class of named objects: those that a pruner condemns and deletes.
type Class uint8

// The classes.
const (
	Pack Class = 1
	Page Class = 2
)

// Name is the name of a pack or a page. Attempt is the run of one process that
// made it: no two runs ever write one object, so that a Put never finds what a
// pruner is about to delete, and a lease that names attempts protects all that
// they wrote and will write.
type Name struct {
	Class   Class
	Attempt ID
	Sum     Sum
}

// Folders of a store, each with its "/".
const (
	PackPrefix   = "packs/"
	PagePrefix   = "lists/"
	SnapPrefix   = "snap/"
	LeasePrefix  = "lease/"
	GCPrefix     = "gc/"
	TenantPrefix = "tenant/"
	// StoreKey is the key of a store's description.
	StoreKey = "store.json"
	// ClockKey is what pruners ask the store for the time with.
	ClockKey = "clock"
	// ProbeKey is what the store's conditional Put is tried with.
	ProbeKey = "probe"
)

// Prefix returns the folder of a class.
func (c Class) Prefix() string {
	if c == Page {
		return PagePrefix
	}
	return PackPrefix
}

// Key returns the key of the object.
func (n Name) Key() string {
	return n.Class.Prefix() + n.Attempt.String() + "/" + n.Sum.String()
}

// String is Key.
func (n Name) String() string { return n.Key() }

// Compare orders names as their keys within a class are, classes one after the
// other.
func (n Name) Compare(o Name) int {
	if n.Class != o.Class {
		return int(n.Class) - int(o.Class)
	}
	if c := bytes.Compare(n.Attempt[:], o.Attempt[:]); c != 0 {
		return c
	}
	return bytes.Compare(n.Sum[:], o.Sum[:])
}

// ParseName reads the key of a pack or page.
func ParseName(key string) (n Name, err error) {
	for _, c := range []Class{Pack, Page} {
		if rest, ok := strings.CutPrefix(key, c.Prefix()); ok {
			attempt, sum, _ := strings.Cut(rest, "/")
			if n.Attempt, err = ParseID(attempt); err == nil {
				n.Sum, err = ParseSum(sum)
			}
			n.Class = c
			return n, err
		}
	}
	return n, fmt.Errorf("%w name: %.100q is neither a pack nor a page", ErrFormat, key)
}

// The parts of a snapshot. KeysPart is followed by a number, TombPart and
// VerdictPart by an identity, which a tomb and its verdict share.
const (
	ManifestPart = "manifest"
	CardPart     = "card"
	KeysPart     = "keys-"
	TombPart     = "tomb-"
	VerdictPart  = "verdict-"
)

// SnapKey returns the key of a part of snapshot s.
func SnapKey(s ID, part string) string { return SnapPrefix + s.String() + "/" + part }

// SlotsKey returns the key of version n of a snapshot's slots.
func SlotsKey(s ID, n uint32) string { return SnapKey(s, KeysPart+strconv.FormatUint(uint64(n), 10)) }

// TenantKey returns the key of version n of a tenant secret's slots.
func TenantKey(fingerprint ID, n uint32) string {
	return TenantPrefix + fingerprint.String() + "/" + KeysPart + strconv.FormatUint(uint64(n), 10)
}

// ParseSnapKey reads the key of a part of a snapshot.
func ParseSnapKey(key string) (s ID, part string, err error) {
	rest, ok := strings.CutPrefix(key, SnapPrefix)
	id, part, ok2 := strings.Cut(rest, "/")
	if s, err = ParseID(id); err != nil {
		return s, "", err
	}
	known := part == ManifestPart || part == CardPart
	if n, isKeys := strings.CutPrefix(part, KeysPart); isKeys {
		_, known = parseNumber(n)
	}
	if _, _, isTomb := ParseTomb(part); isTomb {
		known = true
	}
	if !ok || !ok2 || !known {
		return s, "", fmt.Errorf("%w name: %.100q is no part of a snapshot", ErrFormat, key)
	}
	return s, part, nil
}

// SlotsVersion returns the number in the name of a KeysPart.
func SlotsVersion(part string) (n uint32, ok bool) {
	rest, ok := strings.CutPrefix(part, KeysPart)
	if !ok {
		return 0, false
	}
	return parseNumber(rest)
}

// TombKey returns the key of tomb t of snapshot s.
func TombKey(s, t ID) string { return SnapKey(s, TombPart+t.String()) }

// VerdictKey returns the key of what decides about tomb t of snapshot s.
func VerdictKey(s, t ID) string { return SnapKey(s, VerdictPart+t.String()) }

// ParseTomb reads the part that is a tomb or the verdict about it.
func ParseTomb(part string) (t ID, verdict, ok bool) {
	rest, isTomb := strings.CutPrefix(part, TombPart)
	if !isTomb {
		if rest, verdict = strings.CutPrefix(part, VerdictPart); !verdict {
			return t, false, false
		}
	}
	t, err := ParseID(rest)
	return t, verdict, err == nil
}

func parseNumber(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && strconv.FormatUint(n, 10) == s
}

// LeaseKey returns the key of a lease on snapshot s; id tells it from others.
func LeaseKey(s, id ID) string { return LeasePrefix + s.String() + "/" + id.String() }

// ParseLeaseKey reads the key of a lease.
func ParseLeaseKey(key string) (s, id ID, err error) {
	rest, ok := strings.CutPrefix(key, LeasePrefix)
	first, second, _ := strings.Cut(rest, "/")
	if s, err = ParseID(first); err == nil {
		id, err = ParseID(second)
	}
	if err == nil && !ok {
		err = fmt.Errorf("%w name: %.100q is no lease", ErrFormat, key)
	}
	return s, id, err
}

// GCKey returns the key of a record of condemned objects.
func GCKey(id ID) string { return GCPrefix + id.String() }

// ParseGCKey reads the key of a record of condemned objects.
func ParseGCKey(key string) (id ID, err error) {
	rest, ok := strings.CutPrefix(key, GCPrefix)
	if id, err = ParseID(rest); err == nil && !ok {
		err = fmt.Errorf("%w name: %.100q is no record", ErrFormat, key)
	}
	return id, err
}
