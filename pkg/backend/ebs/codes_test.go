package ebs

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

// referenceCodes are the codes that EC2's reference lists for all calls and for the calls that the
// driver makes. https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
const referenceCodes = `AuthFailure Blocked DryRunOperation IdempotentParameterMismatch IncompleteSignature InvalidCharacter InvalidClientTokenId InvalidPaginationToken
InvalidParameter InvalidParameterCombination InvalidParameterDependency InvalidParameterValue MissingAuthenticationToken MissingParameter OptInRequired PendingVerification
RequestExpired RequestLimitExceeded Throttling UnauthorizedOperation UnknownParameter UnsupportedOperation ValidationError
AttachmentLimitExceeded ConcurrentSnapshotLimitExceeded ConcurrentTagAccess CustomerKeyHasBeenRevoked EncryptedVolumesNotSupported FilterLimitExceeded IncorrectInstanceState
IncorrectModificationState IncorrectState InstanceAttachmentLimitExceeded InvalidAttachment.NotFound InvalidDevice.InUse InvalidFilter InvalidID InvalidInstanceID
InvalidInstanceID.Malformed InvalidInstanceID.NotFound InvalidInstanceType InvalidNextToken InvalidRequest InvalidSnapshot.InUse InvalidSnapshot.NotFound InvalidSnapshotID.Malformed
InvalidState InvalidTagKey.Malformed InvalidVolume.NotFound InvalidVolume.ZoneMismatch InvalidVolumeID.Duplicate InvalidVolumeID.Malformed InvalidVolumeID.ZoneMismatch
InvalidZone.NotFound MaxIOPSLimitExceeded OperationNotPermitted PendingSnapshotLimitExceeded ResourceLimitExceeded SnapshotCreationPerVolumeRateExceeded SnapshotLimitExceeded
TagLimitExceeded TagPolicyViolation UnknownVolumeType VolumeInUse VolumeIOPSLimit VolumeLimitExceeded VolumeModificationSizeLimitExceeded VolumeTypeNotAvailableInZone
InsufficientVolumeCapacity InternalError InternalFailure ServiceUnavailable Unavailable ExpiredToken`

// TestReferenceCodes: no code of the reference becomes INTERNAL, except those that never reach a
// caller.
func TestReferenceCodes(t *testing.T) {
	for _, code := range strings.Fields(referenceCodes) {
		if inside := slices.Contains([]string{codeDryRun, codeNotAttached}, code); (kinds[code] == nil) != inside {
			t.Errorf("%s: %v", code, kinds[code])
		}
	}
}

// TestCodes: each error of EC2 has the kind that makes Kubernetes do the right thing, and says what
// a person can do.
func TestCodes(t *testing.T) {
	s := newEC2(t, ec2test.Options{NoTypes: map[string][]string{"test-1a": {"io2"}}}, false)
	b := open(t, options(s))
	v := mustCreate(t, b, spec("a"))
	snap := must(b.CreateSnapshot(t.Context(), backend.SnapshotSpec{Name: "image", Volume: v.ID}))
	s.UpdateSnapshot(snap.ID, "image")
	create := func(ctx context.Context) error { _, err := b.Create(ctx, spec("b")); return err }
	attach := func(ctx context.Context) error { _, err := b.Attach(ctx, v.ID, nodeA, false); return err }
	for name, c := range map[string]struct {
		action string
		fault  ec2test.Fault
		call   func(context.Context) error
		want   error
		text   string
	}{
		"no such type in the zone": {call: func(ctx context.Context) error {
			sp := spec("io")
			sp.Class = parse("type=io2 iops=100")
			_, err := b.Create(ctx, sp)
			return err
		}, want: backend.ErrTopology},
		"a snapshot of which an image was made": {call: func(ctx context.Context) error { return b.DeleteSnapshot(ctx, snap.ID) }, want: backend.ErrBusy},
		"not allowed":                           {"CreateVolume", ec2test.Fault{Code: "UnauthorizedOperation", Status: http.StatusForbidden}, create, backend.ErrDenied, "docs/iam"},
		"bad credentials":                       {"CreateVolume", ec2test.Fault{Code: "AuthFailure", Status: http.StatusUnauthorized}, create, backend.ErrDenied, "docs/iam"},
		"a wrong clock":                         {"CreateVolume", ec2test.Fault{Code: "RequestExpired"}, create, backend.ErrUnavailable, "clock"},
		"old credentials":                       {"CreateVolume", ec2test.Fault{Code: "ExpiredToken"}, create, backend.ErrUnavailable, ""},
		"a key that is refused":                 {"CreateVolume", ec2test.Fault{Code: "InvalidKmsKey.InvalidState"}, create, backend.ErrInvalid, "docs/iam/kms.json"},
		"a machine that is no more or not yet":  {"AttachVolume", ec2test.Fault{Code: "IncorrectInstanceState"}, attach, backend.ErrUnavailable, ""},
		"a key that was revoked":                {"AttachVolume", ec2test.Fault{Code: "CustomerKeyHasBeenRevoked"}, attach, backend.ErrInvalid, "docs/iam/kms.json"},
		"not now":                               {"AttachVolume", ec2test.Fault{Code: codeNotPermitted}, attach, backend.ErrUnavailable, ""},
		"an error of EC2's that nobody knows":   {"CreateVolume", ec2test.Fault{Code: "Strange", Status: http.StatusBadGateway}, create, backend.ErrUnavailable, ""},
		"a refusal that nobody knows":           {"CreateVolume", ec2test.Fault{Code: "Strange", Status: http.StatusForbidden}, create, backend.ErrDenied, ""},
	} {
		s.SetFault(func(call ec2test.Call) ec2test.Fault {
			if call.Action == c.action {
				return c.fault
			}
			return ec2test.Fault{}
		})
		if err := c.call(t.Context()); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %v, with %q", name, err, c.want, c.text)
		}
	}
	s.SetFault(nil)
	if err := attach(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestLimitText parses EC2's refusals.
func TestLimitText(t *testing.T) {
	for text, want := range map[string]struct {
		which string
		n     int64
	}{
		"Volume iops of 2147483647 is too high; maximum is 80000.":                       {limitMaxIOPS, 80000},
		"Volume iops of 1 is too low; minimum is 100.":                                   {limitMinIOPS, 100},
		"Iops to volume size ratio of 214748364.700000 is too high; maximum is 500.0":    {limitRatio, 500},
		"Iops to volume size ratio of 100 is too high; maximum is 50":                    {limitRatio, 50},
		"Throughput to iops ratio of 0.3 is too high; maximum is 0.250000":               {},
		"Throughput of 3000 is too high; maximum is 2000.":                               {},
		"Volume of 10GiB is too small; minimum is 125GiB.":                               {limitMinSize, 125},
		"Volume of 90000GiB is too large for volume type gp3; maximum is 65536GiB":       {limitMaxSize, 65536},
		"Value (2) for parameter maxResults is invalid. Expecting a value of at least 5": {},
	} {
		which, n, ok := limitOf(&ec2Error{code: codeBadValue, message: text})
		if which != want.which || ok && n != want.n || ok != (want.which != "") {
			t.Errorf("%s: %s %d %v", text, which, n, ok)
		}
	}
}
