package local

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sealvol/sealvol/pkg/backend"
)

const (
	volPrefix  = "lv-"
	snapPrefix = "ls-"
	nameHash   = 32 // hexadecimal digits of the name's hash in an id
	randomPart = 16 // hexadecimal digits of the random part
	idBytes    = len(volPrefix) + nameHash + 1 + randomPart

	maxName        = 128 // bytes; the general CSI limit
	maxRecordBytes = 64 << 10
	recordVersion  = 1
)

type state string

const (
	creating state = "creating"
	ready    state = "ready"
	deleting state = "deleting"
)

// record is the JSON in volumes/H.json and snapshots/H.json.
type record struct {
	Version    int                 `json:"version"`
	ID         string              `json:"id"`
	Name       string              `json:"name"`
	State      state               `json:"state"`
	SizeBytes  int64               `json:"sizeBytes"`
	Parameters map[string]string   `json:"parameters,omitempty"`
	Attachment *backend.Attachment `json:"attachment,omitempty"`
	Source     *backend.Source     `json:"source,omitempty"`
	Origin     string              `json:"origin,omitempty"`
	Created    time.Time           `json:"created,omitzero"` // of a snapshot: the time of its content
}

func hashName(name string) string {
	h := sha256.Sum256([]byte(name))
	return hex.EncodeToString(h[:nameHash/2])
}

func newID(prefix, name string) string {
	var r [randomPart / 2]byte
	rand.Read(r[:]) // never fails (crypto/rand)
	return prefix + hashName(name) + "-" + hex.EncodeToString(r[:])
}

// hashOfID returns the base name of the record of an id, or false if the id does not have this
// form.
func hashOfID(prefix, id string) (string, bool) {
	if len(id) != idBytes || !strings.HasPrefix(id, prefix) {
		return "", false
	}
	h, r := id[len(prefix):len(prefix)+nameHash], id[idBytes-randomPart:]
	if id[len(prefix)+nameHash] != '-' || !isHex(h) || !isHex(r) {
		return "", false
	}
	return h, true
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func recordFile(hash string) string { return hash + ".json" }
func imageFile(id string) string    { return id + ".img" }

// checkName refuses malformed names; the CSI layer has stricter rules.
func checkName(name string) error {
	if name == "" || len(name) > maxName || !utf8.ValidString(name) {
		return fmt.Errorf("%w: a name must have 1 to %d bytes of UTF-8", backend.ErrInvalid, maxName)
	}
	return nil
}

// decodeRecord decodes a record and checks that it belongs to the file name.
func decodeRecord(b []byte, prefix, hash string) (record, error) {
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, fmt.Errorf("%w: record %s: malformed JSON", backend.ErrDamaged, hash)
	}
	h, ok := hashOfID(prefix, r.ID)
	switch {
	case r.Version != recordVersion:
		return record{}, fmt.Errorf("%w: record %s has version %d, but this program supports only version %d", backend.ErrDamaged, hash, r.Version, recordVersion)
	case !ok || h != hash || hashName(r.Name) != hash:
		return record{}, fmt.Errorf("%w: record %s: its id or name does not match the file name", backend.ErrDamaged, hash)
	case r.State != creating && r.State != ready && r.State != deleting:
		return record{}, fmt.Errorf("%w: record %s: unknown state", backend.ErrDamaged, hash)
	case r.SizeBytes < MinVolumeBytes || r.SizeBytes > MaxVolumeBytes:
		return record{}, fmt.Errorf("%w: record %s: impossible size", backend.ErrDamaged, hash)
	case prefix == snapPrefix && (r.Source == nil || r.Source.Volume == "" || r.Origin == ""):
		return record{}, fmt.Errorf("%w: record %s: the snapshot has no source", backend.ErrDamaged, hash)
	}
	return r, nil
}
