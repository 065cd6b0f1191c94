package backendtest

import (
	"errors"
	"testing"

	"github.com/sealvol/sealvol/pkg/backend"
)

// MiB in bytes.
const MiB = 1 << 20

// Setup describes one backend under test.
type Setup struct {
	// New returns an empty backend.
	New func(t *testing.T) backend.Backend
	// SizeBytes is a valid size of a volume. Four times this size must be available.
	SizeBytes int64
	// AlignBytes is what sizes are rounded up to, MinBytes the minimum size. Defaults: 4096, and
	// what Capacity returns.
	AlignBytes, MinBytes int64
	// OtherNode is a second node that volumes can be attached to, or "".
	OtherNode string
}

// Run runs every test of the suite.
func Run(t *testing.T, s Setup) {
	if s.AlignBytes == 0 {
		s.AlignBytes = 4096
	}
	for _, c := range []struct {
		name string
		run  func(*testing.T, Setup, backend.Backend)
	}{
		{"create is idempotent by name", createIdempotent},
		{"create refuses bad specs and changes nothing", createBad},
		{"names of any shape", names},
		{"get and delete", getDelete},
		{"foreign ids", foreignIDs},
		{"an id never returns", idsFresh},
		{"list pages", list},
		{"attach and detach", attach},
		{"device", device},
		{"expand", expand},
		{"class", class},
		{"topology", topology},
		{"cancelled context", cancelled},
		{"concurrent callers", concurrent},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, s, s.New(t)) })
	}
	b := s.New(t)
	if _, ok := b.(backend.Meter); ok {
		t.Run("capacity", func(t *testing.T) { capacity(t, s, s.New(t)) })
	}
	if _, ok := b.(backend.Snapshotter); ok {
		runSnapshots(t, s)
	}
}

// Must fails the test on an error.
func Must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func want(t *testing.T, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got error %v, want %v", err, target)
	}
}

func (s Setup) spec(name string) backend.Spec {
	return backend.Spec{Name: name, RequiredBytes: s.SizeBytes, Parameters: map[string]string{"recordSize": "64KiB"}}
}
