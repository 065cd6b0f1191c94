package snapstore

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// Latest is the name of the newest whole snapshot. "latest:WHAT" is that of one volume, by its
// UUID, or of one claim, as NAMESPACE/NAME.
const Latest = "latest"

// minPrefix is the fewest digits of an id that name a snapshot.
const minPrefix = 4

// Find returns the snapshot that a person names: by a full or short handle, an id or the first
// digits of one, a name that one snapshot has, or Latest. It may be in any state: see Check. want
// is the hash of a full handle. Names and Latest need a tenant. ErrNotFound, ErrAmbiguous,
// ErrOtherStore, ErrExchanged.
func (s *Store) Find(ctx context.Context, t *Tenant, name string) (sn *Snapshot, want *format.Sum, err error) {
	if strings.HasPrefix(name, "ss1.") {
		h, err := format.ParseHandle(name)
		if err != nil {
			return nil, nil, err
		}
		if h.Store != s.id {
			return nil, nil, fmt.Errorf("%w: it names store %s, and this is store %s", ErrOtherStore, h.Store, s.id)
		}
		if sn, err = s.Get(ctx, t, h.S); err != nil {
			return nil, nil, err
		}
		if h.Sealed != nil && sn.Card != nil && sn.Card.Sealed != *h.Sealed {
			return nil, nil, fmt.Errorf("snapshot %s: %w: the handle names another manifest than the card", h.S, ErrExchanged)
		}
		return sn, h.Sealed, nil
	}
	if id, err := parseID(name); err == nil {
		sn, err = s.Get(ctx, t, id)
		return sn, nil, err
	}
	list, err := s.List(ctx, t)
	if err != nil {
		return nil, nil, err
	}
	sn, err = Pick(list, name)
	return sn, nil, err
}

// parseID reads an id in either of the forms that people see: 32 digits, or as a UUID.
func parseID(s string) (format.ID, error) {
	if u, err := crypto.ParseUUID(s); err == nil {
		return format.ID(u), nil
	}
	return format.ParseID(strings.ToLower(s))
}

// Pick is Find in a list: without handles.
func Pick(list []Snapshot, name string) (*Snapshot, error) {
	if name == Latest || strings.HasPrefix(name, Latest+":") {
		return latest(list, strings.TrimPrefix(strings.TrimPrefix(name, Latest), ":"))
	}
	byName := func(sn *Snapshot) bool { return sn.Card != nil && sn.Card.Name == name }
	byID := func(sn *Snapshot) bool { return strings.HasPrefix(sn.ID.String(), strings.ToLower(name)) }
	found := filter(list, func(sn *Snapshot) bool { return byName(sn) && sn.State == Whole })
	if len(found) == 0 {
		found = filter(list, byName)
	}
	if len(found) == 0 && len(name) >= minPrefix && isHex(name) {
		found = filter(list, byID)
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%w: %q", ErrNotFound, name)
	case 1:
		return found[0], nil
	}
	var ids []string
	for _, sn := range found[:min(len(found), 8)] {
		id := sn.ID.String()[:12]
		if sn.Card != nil {
			id += " of " + time.Unix(0, sn.Card.Created).UTC().Format(time.RFC3339)
		}
		ids = append(ids, id)
	}
	return nil, fmt.Errorf("%w %q: %d, such as %s", ErrAmbiguous, name, len(found), strings.Join(ids, ", "))
}

func filter(list []Snapshot, f func(*Snapshot) bool) (found []*Snapshot) {
	for i := range list {
		if f(&list[i]) {
			found = append(found, &list[i])
		}
	}
	return found
}

func isHex(s string) bool {
	_, err := hex.DecodeString(s + strings.Repeat("0", len(s)%2))
	return err == nil
}

// latest returns the newest whole snapshot of one volume or claim. Without either, all whole
// snapshots must be of one volume.
func latest(list []Snapshot, of string) (*Snapshot, error) {
	var newest *Snapshot
	for i := range list {
		sn := &list[i]
		if sn.State != Whole || sn.Card == nil || of != "" && !sn.IsOf(of) {
			continue
		}
		if newest != nil && of == "" && sn.Card.Volume != newest.Card.Volume {
			return nil, fmt.Errorf("%w %q: the store has snapshots of several volumes, such as %s and %s",
				ErrAmbiguous, Latest, newest.Source(), sn.Source())
		}
		if newest == nil || sn.Card.Created >= newest.Card.Created {
			newest = sn
		}
	}
	if newest == nil && of != "" {
		return nil, fmt.Errorf("%w: no whole one of volume or claim %q", ErrNotFound, of)
	}
	if newest == nil {
		return nil, fmt.Errorf("%w: no whole one", ErrNotFound)
	}
	return newest, nil
}

// IsOf reports whether a snapshot, whose card is known, is of a volume or a claim.
func (sn *Snapshot) IsOf(what string) bool {
	if sn.Card == nil {
		return false
	}
	if id, err := parseID(what); err == nil {
		return sn.Card.Volume == id
	}
	return sn.Card.Claim == what
}

// Source returns the claim of a snapshot, or else its volume.
func (sn *Snapshot) Source() string {
	switch {
	case sn.Card == nil:
		return ""
	case sn.Card.Claim != "":
		return sn.Card.Claim
	}
	return crypto.UUID(sn.Card.Volume).String()
}

// Check returns nil if the snapshot is whole and its card opens; else the error of its state:
// ErrUnfinished, ErrForgotten, ErrVoid, ErrLost, ErrTenant.
func (sn *Snapshot) Check() error {
	var err error
	switch sn.State {
	case Whole:
		return sn.Err
	case Unfinished:
		err = ErrUnfinished
	case Forgotten:
		err = ErrForgotten
	case Void:
		err = ErrVoid
	case Damaged:
		if err = sn.Err; err == nil {
			err = fmt.Errorf("%w: its manifest", ErrLost)
		}
	}
	return fmt.Errorf("snapshot %s: %w", sn.ID, err)
}
