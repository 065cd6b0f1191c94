package csi

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sealvol/sealvol/pkg/backend"
)

// TestBackendCodes: each error of the backend, however wrapped, has the code that Kubernetes and
// its sidecars act on.
func TestBackendCodes(t *testing.T) {
	want := map[string]struct {
		err  error
		code codes.Code
	}{
		"ErrInvalid":           {backend.ErrInvalid, codes.InvalidArgument},
		"ErrNotFound":          {backend.ErrNotFound, codes.NotFound},
		"ErrSnapshotNotFound":  {backend.ErrSnapshotNotFound, codes.NotFound},
		"ErrNodeNotFound":      {backend.ErrNodeNotFound, codes.NotFound},
		"ErrExists":            {backend.ErrExists, codes.AlreadyExists},
		"ErrNoSpace":           {backend.ErrNoSpace, codes.ResourceExhausted},
		"ErrTopology":          {backend.ErrTopology, codes.ResourceExhausted},
		"ErrOutOfRange":        {backend.ErrOutOfRange, codes.OutOfRange},
		"ErrBusy":              {backend.ErrBusy, codes.FailedPrecondition},
		"ErrAttachedElsewhere": {backend.ErrAttachedElsewhere, codes.FailedPrecondition},
		"ErrAttachedOtherwise": {backend.ErrAttachedOtherwise, codes.AlreadyExists},
		"ErrNotAttached":       {backend.ErrNotAttached, codes.FailedPrecondition},
		"ErrTooManyAttached":   {backend.ErrTooManyAttached, codes.ResourceExhausted},
		"ErrBadToken":          {backend.ErrBadToken, codes.Aborted},
		"ErrQuota":             {backend.ErrQuota, codes.ResourceExhausted},
		"ErrUnavailable":       {backend.ErrUnavailable, codes.Unavailable},
		"ErrDenied":            {backend.ErrDenied, codes.PermissionDenied},
		"ErrDamaged":           {backend.ErrDamaged, codes.DataLoss},
	}
	f, err := parser.ParseFile(token.NewFileSet(), "../backend/backend.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for name := range f.Scope.Objects {
		if !strings.HasPrefix(name, "Err") || !ast.IsExported(name) {
			continue
		}
		found++
		w, ok := want[name]
		if !ok {
			t.Errorf("%s has no code", name)
			continue
		}
		err := toStatus(fmt.Errorf("publish volume: %w", fmt.Errorf("%w: i-1", w.err)))
		if got := status.Code(err); got != w.code || !strings.Contains(err.Error(), "i-1") {
			t.Errorf("%s: %v, want %v", name, err, w.code)
		}
	}
	if found != len(want) {
		t.Errorf("%d errors found, %d known", found, len(want))
	}
	if got := status.Code(toStatus(errInFlight)); got != codes.Aborted {
		t.Error(got)
	}
}
