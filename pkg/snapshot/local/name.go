package local

import (
	"strings"

	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

const prefix = "ses-"

// Name returns the name of the local snapshot of stored snapshot s in a store.
func Name(s, store format.ID) string { return prefix + s.String() + "-" + store.String() }

// name is a parsed name.
type name struct {
	s     format.ID
	store format.ID // zero: it does not say
}

// parse reads a name. ok is false if it is not of a stored snapshot.
func parse(text string) (n name, ok bool) {
	rest, ok := strings.CutPrefix(text, prefix)
	if !ok {
		return n, false
	}
	id, store, more := strings.Cut(rest, "-")
	var err error
	if n.s, err = format.ParseID(id); err == nil && more {
		n.store, err = format.ParseID(store)
	}
	return n, err == nil
}

// Is reports whether a local snapshot has the name of one that belongs to a stored snapshot.
func Is(text string) bool {
	_, ok := parse(text)
	return ok
}
