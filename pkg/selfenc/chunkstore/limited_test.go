package chunkstore_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore/chunkstoretest"
)

func limit(t *testing.T, s chunkstore.Store, r chunkstore.Rights) chunkstore.Store {
	t.Helper()
	l, err := chunkstore.Limit(s, r)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestLimited checks that a limited store passes the conformance suite within its rights.
func TestLimited(t *testing.T) {
	below, n := chunkstore.NewMemory(), 0
	for _, key := range []string{"a", "te", "tenant-10/x", "tenant-1x", "z"} { // objects of others, which must not be visible
		if _, err := below.Put(t.Context(), key, nil); err != nil {
			t.Fatal(err)
		}
	}
	chunkstoretest.Run(t, func(t *testing.T, again bool) chunkstore.Store {
		if !again {
			n++
		}
		return limit(t, below, chunkstore.Rights{Prefix: fmt.Sprintf("tenant-1/%d/", n), Delete: []string{""}, Replace: []string{""}})
	})
}

func TestRights(t *testing.T) {
	below := chunkstore.NewMemory()
	s := limit(t, below, chunkstore.Rights{Prefix: "p/", Delete: []string{"lease/"}, Replace: []string{"lease/", "gc/"}})
	for _, key := range []string{"lease/a", "packs/a", "gc/a"} {
		if created, err := s.Put(t.Context(), key, []byte("x")); err != nil || !created {
			t.Fatal(err)
		}
		del, rep := s.Delete(t.Context(), key), s.Replace(t.Context(), key, []byte("y"))
		if wantDel := key == "lease/a"; (del == nil) != wantDel || del != nil && !errors.Is(del, chunkstore.ErrDenied) {
			t.Errorf("delete %s: %v", key, del)
		}
		if wantRep := key != "packs/a"; (rep == nil) != wantRep || rep != nil && !errors.Is(rep, chunkstore.ErrDenied) {
			t.Errorf("replace %s: %v", key, rep)
		}
	}
	if _, err := below.Stat(t.Context(), "p/packs/a"); err != nil {
		t.Error(err)
	}
	reader := limit(t, s, chunkstore.Rights{ReadOnly: true, Delete: []string{""}, Replace: []string{""}})
	_, put := reader.Put(t.Context(), "new", nil)
	for i, err := range []error{put, reader.Replace(t.Context(), "lease/a", nil), reader.Delete(t.Context(), "lease/a")} {
		if !errors.Is(err, chunkstore.ErrDenied) {
			t.Errorf("call %d of a reader: %v", i, err)
		}
	}
	if b, err := reader.Get(t.Context(), "packs/a", nil, 10); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
	for _, prefix := range []string{"p", "/", "../", "a//"} {
		if _, err := chunkstore.Limit(below, chunkstore.Rights{Prefix: prefix}); !errors.Is(err, chunkstore.ErrKey) {
			t.Errorf("prefix %q: %v", prefix, err)
		}
	}
}
