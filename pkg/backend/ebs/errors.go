package ebs

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/sealvol/sealvol/pkg/backend"
)

// Codes of EC2 that the code itself looks for.
const (
	codeTokenMismatch = "IdempotentParameterMismatch"
	codeVolumeLimit   = "VolumeLimitExceeded"
	codeVolumeGone    = "InvalidVolume.NotFound"
	codeNotAttached   = "InvalidAttachment.NotFound"
	codeState         = "IncorrectState"
	codeModifying     = "IncorrectModificationState"
	codeInUse         = "VolumeInUse"
	codeBadValue      = "InvalidParameterValue"
	codeNoInstance    = "InvalidInstanceID.NotFound"
	codeNoSnapshot    = "InvalidSnapshot.NotFound"
	codeNextToken     = "InvalidNextToken"
	codeDryRun        = "DryRunOperation"
)

// kinds says what EC2's codes mean to a backend's caller. What is not here is an error of its own kind.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
var kinds = map[string]error{
	codeVolumeGone:                backend.ErrNotFound,
	"InvalidVolumeID.Malformed":   backend.ErrNotFound,
	codeNoSnapshot:                backend.ErrSnapshotNotFound,
	"InvalidSnapshotID.Malformed": backend.ErrSnapshotNotFound,
	codeNoInstance:                backend.ErrNodeNotFound,
	"InvalidInstanceID.Malformed": backend.ErrNodeNotFound,

	codeVolumeLimit:                         backend.ErrNoSpace,
	"SnapshotLimitExceeded":                 backend.ErrNoSpace,
	"MaxIOPSLimitExceeded":                  backend.ErrNoSpace,
	"ConcurrentSnapshotLimitExceeded":       backend.ErrQuota,
	"SnapshotCreationPerVolumeRateExceeded": backend.ErrQuota,
	"VolumeModificationRateExceeded":        backend.ErrQuota,
	"VolumeModificationSizeLimitExceeded":   backend.ErrQuota,
	"VolumeIOPSLimit":                       backend.ErrNoSpace,

	"AttachmentLimitExceeded":         backend.ErrTooManyAttached,
	"InstanceAttachmentLimitExceeded": backend.ErrTooManyAttached,
	"InvalidZone.NotFound":            backend.ErrTopology,
	"InvalidVolume.ZoneMismatch":      backend.ErrTopology,
	"InsufficientVolumeCapacity":      backend.ErrTopology,

	codeInUse:     backend.ErrBusy,
	codeState:     backend.ErrBusy,
	codeModifying: backend.ErrUnavailable,
	codeNextToken: backend.ErrBadToken,

	codeBadValue:                  backend.ErrInvalid,
	"InvalidParameter":            backend.ErrInvalid,
	"InvalidParameterCombination": backend.ErrInvalid,
	"InvalidParameterDependency":  backend.ErrInvalid,
	"MissingParameter":            backend.ErrInvalid,
	"UnknownParameter":            backend.ErrInvalid,
	"UnknownVolumeType":           backend.ErrInvalid,
	"UnsupportedOperation":        backend.ErrInvalid,
	"ValidationError":             backend.ErrInvalid,
	"InvalidKMSKey.InvalidState":  backend.ErrInvalid,

	"RequestLimitExceeded": backend.ErrUnavailable,
	"Throttling":           backend.ErrUnavailable,
	"InternalError":        backend.ErrUnavailable,
	"InternalFailure":      backend.ErrUnavailable,
	"ServiceUnavailable":   backend.ErrUnavailable,
	"Unavailable":          backend.ErrUnavailable,
}

// ec2Error is an error of a call, of a backend's kind.
type ec2Error struct {
	op, code, message, request string
	kind, cause                error
}

func (e *ec2Error) Error() string {
	if e.code == "" {
		return fmt.Sprintf("EC2 %s: %v", e.op, e.cause)
	}
	s := fmt.Sprintf("EC2 %s: %s: %s", e.op, e.code, e.message)
	if e.request != "" {
		s += " (request " + e.request + ")"
	}
	return s
}

func (e *ec2Error) Unwrap() []error {
	if e.kind == nil {
		return []error{e.cause}
	}
	return []error{e.kind, e.cause}
}

// translate gives an error of the SDK its kind. This is the only place.
func translate(op string, err error) error {
	if err == nil {
		return nil
	}
	e := &ec2Error{op: op, cause: err}
	var api smithy.APIError
	switch {
	case errors.As(err, &api) && api.ErrorCode() != "" && !ofAnother(err):
		e.code, e.message = api.ErrorCode(), api.ErrorMessage()
		e.kind = kinds[e.code]
		if e.code == codeBadValue && sizeError.MatchString(e.message) {
			e.kind = backend.ErrOutOfRange
		}
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
	default:
		e.kind = backend.ErrUnavailable
	}
	var resp *awshttp.ResponseError
	if errors.As(err, &resp) {
		e.request = resp.ServiceRequestID()
	}
	return e
}

// ofAnother tells whether it was not EC2 that failed but who was to give the credentials for it: EC2 was not asked. STS is asked by an operation within
// EC2's; agents and the metadata service have codes of their own, and no response of an operation.
func ofAnother(err error) bool {
	var outer, inner *smithy.OperationError
	var resp *awshttp.ResponseError
	return errors.As(err, &outer) && errors.As(outer.Err, &inner) || !errors.As(err, &resp)
}

// sizeError is how EC2 refuses a size.
var sizeError = regexp.MustCompile(`(?i)^volume of (size )?\d+ ?Gi?B is (too|smaller)`)

// limitText is how EC2 tells a limit: "maximum is 80000", "minimum is 125GiB".
var limitText = regexp.MustCompile(`(?i)(maximum|minimum) is:? ?(\d+)`)

// limitOf finds the limit that an error tells of.
func limitOf(err error) (which string, n int64, ok bool) {
	var e *ec2Error
	if !errors.As(err, &e) || e.code != codeBadValue {
		return "", 0, false
	}
	m := limitText.FindStringSubmatch(e.message)
	if m == nil {
		return "", 0, false
	}
	n, perr := strconv.ParseInt(m[2], 10, 64)
	return m[1], n, perr == nil
}

func isCode(err error, codes ...string) bool {
	var e *ec2Error
	if !errors.As(err, &e) {
		return false
	}
	for _, c := range codes {
		if e.code == c {
			return true
		}
	}
	return false
}
