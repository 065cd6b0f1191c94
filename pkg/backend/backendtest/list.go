package backendtest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/sealvol/sealvol/pkg/backend"
)

func ids(t *testing.T, b backend.Backend) map[string]backend.Volume {
	t.Helper()
	vols, next, err := b.List(t.Context(), "", 0)
	if err != nil || next != "" {
		t.Fatalf("list: %v, next %q", err, next)
	}
	m := map[string]backend.Volume{}
	for _, v := range vols {
		m[v.ID] = v
	}
	return m
}

func list(t *testing.T, s Setup, b backend.Backend) {
	_, _, err := b.List(t.Context(), "invalid-token", 1)
	want(t, err, backend.ErrBadToken)
	_, _, err = b.List(t.Context(), "", -1)
	want(t, err, backend.ErrInvalid)
	made := map[string]bool{}
	small := func(name string) backend.Volume {
		sp := s.spec(name)
		sp.RequiredBytes, sp.LimitBytes = 0, s.SizeBytes/4
		return Must[backend.Volume](t)(b.Create(t.Context(), sp))
	}
	for i := range 7 {
		made[small(fmt.Sprint("v", i)).ID] = true
	}
	token, seen := "", map[string]bool{}
	for page := 0; ; page++ {
		vols, next, err := b.List(t.Context(), token, 2)
		if err != nil || len(vols) > 2 {
			t.Fatalf("%d volumes, %v", len(vols), err)
		}
		for _, v := range vols {
			if seen[v.ID] {
				t.Fatalf("%s twice", v.ID)
			}
			seen[v.ID] = true
		}
		if next == "" {
			break
		}
		if page == 1 { // the token's own volume goes, another comes
			if err := b.Delete(t.Context(), vols[1].ID); err != nil {
				t.Fatal(err)
			}
			small("late")
		}
		token = next
	}
	for id := range made {
		if !seen[id] {
			t.Errorf("%s existed all the time and was not listed", id)
		}
	}
}

func cancelled(t *testing.T, s Setup, b backend.Backend) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.Create(ctx, s.spec("a"))
	want(t, err, context.Canceled)
	if n := len(ids(t, b)); n != 0 {
		t.Fatalf("%d volumes", n)
	}
}

func concurrent(t *testing.T, s Setup, b backend.Backend) {
	info := Must[backend.NodeInfo](t)(b.Info(t.Context()))
	var wg sync.WaitGroup
	got := make([]string, 8)
	for i := range got {
		wg.Go(func() {
			v, err := b.Create(t.Context(), s.spec("same"))
			if err != nil {
				t.Error(err)
				return
			}
			got[i] = v.ID
			if _, err := b.Attach(t.Context(), v.ID, info.ID, false); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, id := range got {
		if id != got[0] {
			t.Fatalf("one name, two volumes: %q", got)
		}
	}
}
