package chunkstore

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"
)

// TestMeter: every request counts as what S3 charges, bytes only if they were transferred.
func TestMeter(t *testing.T) {
	m, ctx := NewMeter(NewMemory()), t.Context()
	for i := range 2 {
		if created, err := m.Put(ctx, "a", []byte("four")); err != nil || created != (i == 0) {
			t.Fatal(created, err)
		}
	}
	_, gerr := m.Get(ctx, "a", nil, 10)
	_, serr := m.Stat(ctx, "a")
	err := errors.Join(m.Replace(ctx, "b", []byte("five!")), gerr, serr, m.GetRange(ctx, "b", 1, make([]byte, 2)), m.Delete(ctx, "b"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Get(ctx, "none", nil, 10); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	list := func() {
		t.Helper()
		for _, err := range m.List(ctx, "", "") {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	list()
	want := Requests{Get: 3, Put: 3, List: 1, Stat: 1, Delete: 1, DownloadedBytes: 6, UploadedBytes: 9}
	if got := m.Requests(); got != want || got.All() != 9 {
		t.Errorf("%+v, want %+v", got, want)
	}
	for i := range 1000 {
		if _, err := m.store.Put(ctx, fmt.Sprintf("x%04d", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	list()
	if got := m.Requests().List; got != 3 {
		t.Errorf("two pages count as %d requests", got-1)
	}
	if LockerOf(m) != nil || m.String() != "the store" {
		t.Error("a store without object lock has one, or a name")
	}
}

// TestLocker: a lock is read and extended, never shortened, through all wrappers.
func TestLocker(t *testing.T) {
	w, server := newWire(t)
	if p, err := LockerOf(openWire(t, server, "")).LockPeriod(t.Context()); err != nil || p != 0 || LockerOf(NewMemory()) != nil {
		t.Error("locks without object-lock")
	}
	s := openWire(t, server, "&object-lock=GOVERNANCE&retain-days=30")
	if _, err := s.Put(t.Context(), "x", []byte("one")); err != nil {
		t.Fatal(err)
	}
	m := NewMeter(s)
	below, err := Limit(m, Rights{})
	if err != nil {
		t.Fatal(err)
	}
	l := LockerOf(below)
	if p, err := l.LockPeriod(t.Context()); err != nil || p != 30*day {
		t.Fatalf("%v, %v", p, err)
	}
	if until, err := l.LockedUntil(t.Context(), "x"); err != nil || !until.IsZero() {
		t.Errorf("%v, %v", until, err)
	}
	if _, err := l.LockedUntil(t.Context(), "none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
	w.lock("x", time.Now().Add(10*day))
	if until, err := l.LockedUntil(t.Context(), "x"); err != nil || time.Until(until) < 9*day {
		t.Errorf("%v, %v", until, err)
	}
	w.take()
	for days, want := range map[int]bool{9: false, 11: true} {
		to := time.Now().AddDate(0, 0, days)
		until, extended, err := l.Lock(t.Context(), "x", to, to)
		if err != nil || extended != want || until.Before(to) {
			t.Fatal(until, extended, err)
		}
		if n := len(w.take()); (n == 2) != want {
			t.Errorf("extended to %d days: %d requests", days, n)
		}
	}
	if n := m.Requests().Lock; n != 6 {
		t.Errorf("%d requests were counted", n)
	}
	readOnly, err := Limit(s, Rights{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := LockerOf(readOnly).Lock(t.Context(), "x", time.Now(), time.Now()); !errors.Is(err, ErrDenied) {
		t.Errorf("%v", err)
	}
}

// TestEventual: of directories, only those on file systems of this machine alone show at once what
// was stored.
func TestEventual(t *testing.T) {
	for dir, want := range map[string]bool{"/dev/shm": false, "/proc": true} {
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		got, err := IsEventual(NewMeter(&Dir{root: root}))
		if err = errors.Join(err, root.Close()); err != nil || got != want {
			t.Errorf("%s: %v, %v", dir, got, err)
		}
	}
	if got, err := IsEventual(NewMemory()); err != nil || got {
		t.Errorf("memory: %v, %v", got, err)
	}
}

// TestTransient: what is transient is never locked, and takes no request about locks.
func TestTransient(t *testing.T) {
	w, server := newWire(t)
	transient := func(key string) bool { return key == "lease" }
	s, err := OpenWith(t.Context(), openURL(server, "&object-lock=GOVERNANCE&retain-days=30"), OpenOptions{Transient: transient})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"x", "lease"} {
		if _, err := s.Put(t.Context(), key, []byte("one")); err != nil {
			t.Fatal(err)
		}
		if got := w.take()[0].Header.Get("X-Amz-Object-Lock-Mode") != ""; got == transient(key) {
			t.Errorf("%s: locked: %v", key, got)
		}
	}
	if _, err := s.Put(t.Context(), "lease", []byte("two")); err != nil {
		t.Fatal(err)
	}
	if n := len(w.take()); n != 1 {
		t.Errorf("a put of what is transient takes %d requests", n)
	}
	if err := s.Delete(t.Context(), "lease"); err != nil || len(w.take()) != 1 {
		t.Errorf("delete what is transient: %v", err)
	}
}
