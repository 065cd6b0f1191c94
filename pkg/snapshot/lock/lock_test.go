package lock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

const day = 24 * time.Hour

// locking is a store with object lock in memory.
type locking struct {
	chunkstore.Store
	period time.Duration

	mu    sync.Mutex
	until map[string]time.Time // guarded by mu
	asked int                  // guarded by mu
}

func (l *locking) LockPeriod(context.Context) (time.Duration, error) { return l.period, nil }

func (l *locking) LockedUntil(_ context.Context, key string) (time.Time, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.until[key], nil
}

func (l *locking) Lock(ctx context.Context, key string, enough, to time.Time) (time.Time, bool, error) {
	if _, err := l.Stat(ctx, key); err != nil {
		return time.Time{}, false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	if !l.until[key].Before(enough) {
		return l.until[key], false, nil
	}
	l.until[key] = to
	return to, true, nil
}

// listed makes a list of n packs in a store, which are locked for a time from now on, as if they had
// been stored under one attempt.
func listed(t *testing.T, s *locking, n int, left time.Duration) *format.Head {
	t.Helper()
	h := &format.Head{Suite: 1, S: format.NewID()}
	attempt := format.NewID()
	put := func(name format.Name, b []byte) {
		t.Helper()
		if _, err := s.Put(t.Context(), name.Key(), b); err != nil {
			t.Fatal(err)
		}
		s.until[name.Key()] = time.Now().Add(left)
	}
	for n > 0 {
		var packs []format.PackEntry
		for range min(n, format.MaxPagePacks) {
			name := format.Name{Class: format.Pack, Attempt: attempt, Sum: format.SumOf(fmt.Append(nil, h.Next))}
			put(name, []byte("pack"))
			packs = append(packs, format.PackEntry{Number: h.Next, Name: name, Bytes: 1 << 20, Slots: 1})
			h.Next++
		}
		b, err := format.EncodePage(packs)
		if err != nil {
			t.Fatal(err)
		}
		ref := format.RefOf(attempt, b, packs)
		put(ref.Name, b)
		h.Pages, h.Packs, h.Bytes = append(h.Pages, ref), h.Packs+uint32(ref.Packs), h.Bytes+ref.Bytes
		n -= len(packs)
	}
	return h
}

func newStore() *locking {
	return &locking{Store: chunkstore.NewMemory(), period: 30 * day, until: map[string]time.Time{}}
}

// TestExtend: after it, nothing can be deleted in time; what is locked for long enough, or known to
// be, takes no request to extend it.
func TestExtend(t *testing.T) {
	s := newStore()
	h := listed(t, s, 1500, 29*day)
	progress := 0
	r, err := Extend(t.Context(), s, h, Options{Progress: func(done, total int) {
		if progress++; done != progress || total != 1502 {
			t.Errorf("%d of %d", done, total)
		}
	}})
	if err != nil || r.Objects != 1502 || r.Asked != 1502 || r.Extended != 1502 || progress != 1502 {
		t.Fatalf("%+v, %v", r, err)
	}
	for key, until := range s.until {
		if time.Until(until) < 30*day || until.Before(r.Until) {
			t.Errorf("%s is locked for %v", key, time.Until(until))
		}
	}
	// The next one, a while later, has nothing to extend, and a little to ask.
	known := func(n format.Name) time.Time {
		if n.Class == format.Page {
			return time.Time{}
		}
		return r.Until
	}
	again, err := Extend(t.Context(), s, h, Options{Until: time.Now().Add(30*day + time.Hour), Known: known})
	if err != nil || again.Objects != 1502 || again.Asked != 2 || again.Extended != 0 || again.Until != r.Until {
		t.Errorf("%+v, %v", again, err)
	}
	// Without slack.
	until := time.Now().Add(40 * day)
	if r, err = Extend(t.Context(), s, h, Options{Until: until, Slack: -1, Parallel: 1}); err != nil || r.Extended != 1502 || !r.Until.Equal(until) {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestEmpty: a store without object lock, and a list of nothing.
func TestEmpty(t *testing.T) {
	s := newStore()
	h := listed(t, s, 3, 0)
	if r, err := Extend(t.Context(), s.Store, h, Options{}); err != nil || r != (Report{}) {
		t.Errorf("%+v, %v", r, err)
	}
	s.period = 0
	if r, err := Extend(t.Context(), s, h, Options{}); err != nil || r != (Report{}) || s.asked > 0 {
		t.Errorf("%+v, %v", r, err)
	}
	s.period = day
	until := time.Now().Add(day)
	if r, err := Extend(t.Context(), s, &format.Head{}, Options{Until: until}); err != nil || r != (Report{Until: until}) {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestFailures: what is not there, what is damaged and what is refused end it.
func TestFailures(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(s *locking, h *format.Head) error
		want  error
	}{
		"a pack is lost": {func(s *locking, h *format.Head) error {
			return s.Delete(context.Background(), format.Name{Class: format.Pack, Attempt: h.Pages[0].Name.Attempt, Sum: format.SumOf([]byte("1"))}.Key())
		}, chunkstore.ErrNotFound},
		"a page is lost": {func(s *locking, h *format.Head) error {
			return s.Delete(context.Background(), h.Pages[0].Name.Key())
		}, chunkstore.ErrNotFound},
		"a page is another": {func(s *locking, h *format.Head) error {
			return s.Replace(context.Background(), h.Pages[0].Name.Key(), []byte("damaged"))
		}, format.ErrFormat},
	} {
		s := newStore()
		h := listed(t, s, 3, 0)
		if err := c.spoil(s, h); err != nil {
			t.Fatal(err)
		}
		_, err := Extend(t.Context(), s, h, Options{})
		if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), h.S.String()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := newStore()
	h := listed(t, s, 3, 0)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := Extend(ctx, s, h, Options{}); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
}
