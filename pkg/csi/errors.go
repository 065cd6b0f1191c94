package csi

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/mounter"
)

// These errors originate in this package.
var (
	errInvalid      = errors.New("invalid argument")
	errNotFound     = errors.New("not found")
	errPrecondition = errors.New("precondition failed")
	errIncompatible = errors.New("already exists with incompatible settings")
	errOutOfRange   = errors.New("out of range")
	errSecrets      = errors.New("secrets")
	errUnavailable  = errors.New("not available yet")
	errInFlight     = errors.New("another operation on this volume is running")
	errLost         = errors.New("the device no longer holds the volume")
)

// grpcCodes maps errors to codes; the first match wins. All other errors are Internal.
var grpcCodes = []struct {
	err  error
	code codes.Code
}{
	{errInvalid, codes.InvalidArgument},
	{errNotFound, codes.NotFound},
	{errPrecondition, codes.FailedPrecondition},
	{errIncompatible, codes.AlreadyExists},
	{errOutOfRange, codes.OutOfRange},
	{errSecrets, codes.Unauthenticated},
	{errUnavailable, codes.Unavailable},
	{errInFlight, codes.Aborted},
	{errLost, codes.DataLoss},

	{backend.ErrInvalid, codes.InvalidArgument},
	{backend.ErrNotFound, codes.NotFound},
	{backend.ErrSnapshotNotFound, codes.NotFound},
	{backend.ErrNodeNotFound, codes.NotFound},
	{backend.ErrExists, codes.AlreadyExists},
	{backend.ErrNoSpace, codes.ResourceExhausted},
	{backend.ErrQuota, codes.ResourceExhausted},
	{backend.ErrTopology, codes.ResourceExhausted},
	{backend.ErrTooManyAttached, codes.ResourceExhausted},
	{backend.ErrOutOfRange, codes.OutOfRange},
	{backend.ErrBusy, codes.FailedPrecondition},
	{backend.ErrAttachedElsewhere, codes.FailedPrecondition},
	{backend.ErrNotAttached, codes.FailedPrecondition},
	{backend.ErrAttachedOtherwise, codes.AlreadyExists},
	{backend.ErrBadToken, codes.Aborted}, // ListVolumes Errors: "Invalid starting_token"
	{backend.ErrDenied, codes.PermissionDenied},
	{backend.ErrDamaged, codes.DataLoss},
	{backend.ErrUnavailable, codes.Unavailable},

	{mounter.ErrNoKey, codes.Unauthenticated},
	{mounter.ErrWrongKey, codes.Unauthenticated},
	{mounter.ErrForeign, codes.FailedPrecondition},
	{mounter.ErrBlank, codes.FailedPrecondition},
	{mounter.ErrNoBlockFile, codes.FailedPrecondition},
	{mounter.ErrDamaged, codes.DataLoss},
	{mounter.ErrRolledBack, codes.DataLoss},
	{mounter.ErrCopy, codes.FailedPrecondition},
	{mounter.ErrRestoring, codes.Unavailable}, // until the restore is complete
	{mounter.ErrConflict, codes.AlreadyExists},
	{mounter.ErrBusy, codes.FailedPrecondition},
	{mounter.ErrNotMounted, codes.FailedPrecondition},
	{mounter.ErrDead, codes.Unavailable},
	{mounter.ErrUnreachable, codes.Unavailable},
	{mounter.ErrInvalid, codes.InvalidArgument},
	{mounter.ErrServer, codes.Internal}, // before the next two: ErrServer may wrap them

	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
}

// toStatus turns any error into one with a gRPC code.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err // from generated code, such as Unimplemented
	}
	for _, e := range grpcCodes {
		if errors.Is(err, e.err) {
			return status.Error(e.code, err.Error())
		}
	}
	return status.Error(codes.Internal, err.Error())
}

func translate(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	if err != nil {
		return nil, toStatus(err)
	}
	return resp, nil
}
