package ebs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/sealvol/sealvol/pkg/backend"
)

// The EC2 error codes that the code handles specially.
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
	codeBadVolume     = "InvalidVolumeID.Malformed"
	codeBadInstance   = "InvalidInstanceID.Malformed"
	codeNoSnapshot    = "InvalidSnapshot.NotFound"
	codeNextToken     = "InvalidNextToken"
	codeNotPermitted  = "OperationNotPermitted"
	codeDeviceInUse   = "InvalidDevice.InUse"
	codeDryRun        = "DryRunOperation"
)

// kinds maps EC2's error codes to the errors of package backend. It has all codes from the
// reference that the calls of api can return.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
// The HTTP status decides about codes that are not listed here (kindOf).
var kinds = map[string]error{
	// It does not exist.
	codeVolumeGone:                backend.ErrNotFound,
	codeBadVolume:                 backend.ErrNotFound,
	"InvalidVolumeID.NotFound":    backend.ErrNotFound,
	"InvalidID":                   backend.ErrNotFound, // of tags
	codeNoSnapshot:                backend.ErrSnapshotNotFound,
	"InvalidSnapshotID.Malformed": backend.ErrSnapshotNotFound,
	codeNoInstance:                backend.ErrNodeNotFound,
	"InvalidInstanceID":           backend.ErrNodeNotFound,
	codeBadInstance:               backend.ErrNodeNotFound,

	// A limit of the account, permanent or temporary.
	codeVolumeLimit:                         backend.ErrNoSpace,
	"SnapshotLimitExceeded":                 backend.ErrNoSpace,
	"ResourceLimitExceeded":                 backend.ErrNoSpace,
	"MaxIOPSLimitExceeded":                  backend.ErrNoSpace,
	"VolumeIOPSLimit":                       backend.ErrNoSpace,
	"ConcurrentSnapshotLimitExceeded":       backend.ErrQuota,
	"PendingSnapshotLimitExceeded":          backend.ErrQuota,
	"SnapshotCreationPerVolumeRateExceeded": backend.ErrQuota,
	"VolumeModificationRateExceeded":        backend.ErrQuota,
	"VolumeModificationSizeLimitExceeded":   backend.ErrQuota,

	// Not available here: another node or zone may work.
	"AttachmentLimitExceeded":         backend.ErrTooManyAttached,
	"InstanceAttachmentLimitExceeded": backend.ErrTooManyAttached,
	"InvalidZone.NotFound":            backend.ErrTopology,
	"InvalidVolume.ZoneMismatch":      backend.ErrTopology,
	"InvalidVolumeID.ZoneMismatch":    backend.ErrTopology,
	"InsufficientVolumeCapacity":      backend.ErrTopology,
	"VolumeTypeNotAvailableInZone":    backend.ErrTopology,

	// It is in use.
	codeInUse:                   backend.ErrBusy,
	codeState:                   backend.ErrBusy,
	"InvalidState":              backend.ErrBusy,
	"InvalidSnapshot.InUse":     backend.ErrBusy, // an image was created from it
	"InvalidVolumeID.Duplicate": backend.ErrBusy,
	codeDeviceInUse:             backend.ErrBusy,

	codeNextToken:            backend.ErrBadToken,
	"InvalidPaginationToken": backend.ErrBadToken,

	// The request can never succeed.
	codeBadValue:                   backend.ErrInvalid,
	"InvalidParameter":             backend.ErrInvalid,
	"InvalidParameterCombination":  backend.ErrInvalid,
	"InvalidParameterDependency":   backend.ErrInvalid,
	"MissingParameter":             backend.ErrInvalid,
	"UnknownParameter":             backend.ErrInvalid,
	"UnknownVolumeType":            backend.ErrInvalid,
	"UnsupportedOperation":         backend.ErrInvalid,
	"ValidationError":              backend.ErrInvalid,
	"InvalidCharacter":             backend.ErrInvalid,
	"InvalidRequest":               backend.ErrInvalid,
	"InvalidFilter":                backend.ErrInvalid,
	"FilterLimitExceeded":          backend.ErrInvalid,
	"InvalidInstanceType":          backend.ErrInvalid,
	"InvalidTagKey.Malformed":      backend.ErrInvalid,
	"TagLimitExceeded":             backend.ErrInvalid,
	"TagPolicyViolation":           backend.ErrInvalid,
	"EncryptedVolumesNotSupported": backend.ErrInvalid, // the instance does not support it
	"InvalidKMSKey.InvalidState":   backend.ErrInvalid,
	"InvalidKmsKey.InvalidState":   backend.ErrInvalid,
	"CustomerKeyHasBeenRevoked":    backend.ErrInvalid,

	// The caller lacks permissions, until somebody grants them.
	"UnauthorizedOperation":      backend.ErrDenied,
	"AuthFailure":                backend.ErrDenied,
	"Blocked":                    backend.ErrDenied,
	"IncompleteSignature":        backend.ErrDenied,
	"InvalidClientTokenId":       backend.ErrDenied,
	"MissingAuthenticationToken": backend.ErrDenied,
	"OptInRequired":              backend.ErrDenied,
	"PendingVerification":        backend.ErrDenied,
	"SignatureDoesNotMatch":      backend.ErrDenied,

	// Temporary: retry.
	codeModifying:            backend.ErrUnavailable,
	codeNotPermitted:         backend.ErrUnavailable, // while the volume is being modified
	codeTokenMismatch:        backend.ErrUnavailable,
	"IncorrectInstanceState": backend.ErrUnavailable,
	"ConcurrentTagAccess":    backend.ErrUnavailable,
	"RequestExpired":         backend.ErrUnavailable, // a clock is wrong, or the request took too long
	"ExpiredToken":           backend.ErrUnavailable, // new credentials will come
	"ExpiredTokenException":  backend.ErrUnavailable,
	"RequestLimitExceeded":   backend.ErrUnavailable,
	"Throttling":             backend.ErrUnavailable,
	"InternalError":          backend.ErrUnavailable,
	"InternalFailure":        backend.ErrUnavailable,
	"ServiceUnavailable":     backend.ErrUnavailable,
	"Unavailable":            backend.ErrUnavailable,
}

// kindOf returns the kind of a code. For an unknown code, it decides by the HTTP status of the
// response.
func kindOf(code, message string, status int) error {
	if code == codeBadValue && sizeError.MatchString(message) {
		return backend.ErrOutOfRange
	}
	if kind, ok := kinds[code]; ok {
		return kind
	}
	_, throttled := retry.DefaultThrottleErrorCodes[code]
	switch {
	case throttled || status >= http.StatusInternalServerError:
		return backend.ErrUnavailable
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return backend.ErrDenied
	}
	return nil
}

// advice says what to do about a code whose own message does not.
func advice(code, message string) string {
	text := strings.ToLower(code + " " + message)
	switch {
	case code == "CustomerKeyHasBeenRevoked" || strings.Contains(text, "kms"):
		return keyHint("")
	case code == "RequestExpired":
		return "check the clock of this machine"
	case kinds[code] == backend.ErrDenied: //nolint:errorlint // the values of the table itself
		return "nothing was done; compare the policy of the driver's role with docs/iam"
	}
	return ""
}

// keyHint says what to do about a volume that fails because KMS refuses its key. EC2 rarely says so
// itself.
func keyHint(key string) string {
	if key == "" {
		key = "of the volume (or the default key of the account for EBS)"
	}
	return "this happens if the KMS key does not exist, is disabled, or may not be used by the driver's role: check that the key " + key +
		" is enabled and that the role has the policy docs/iam/kms.json for it"
}

// ec2Error is an error of a call, with one of the backend's kinds.
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
	if a := advice(e.code, e.message); a != "" {
		s += "; " + a
	}
	return s
}

func (e *ec2Error) Unwrap() []error {
	if e.kind == nil {
		return []error{e.cause}
	}
	return []error{e.kind, e.cause}
}

// translate gives an error of the SDK its kind. It is the only place that does so.
func translate(op string, err error) error {
	if err == nil {
		return nil
	}
	e := &ec2Error{op: op, cause: err}
	var api smithy.APIError
	switch {
	case errors.As(err, &api) && api.ErrorCode() != "" && !ofAnother(err):
		e.code, e.message = api.ErrorCode(), api.ErrorMessage()
		e.kind = kindOf(e.code, e.message, statusOf(err))
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

// statusOf returns the HTTP status of a response, or 0 if there was none.
func statusOf(err error) int {
	var resp *awshttp.ResponseError
	if !errors.As(err, &resp) {
		return 0
	}
	return resp.HTTPStatusCode()
}

// ofAnother tells whether the credential provider failed, not EC2: EC2 got no request. STS is
// called by an operation within EC2's operation; agents and the metadata service have codes of
// their own, and no response of an operation.
func ofAnother(err error) bool {
	var outer, inner *smithy.OperationError
	var resp *awshttp.ResponseError
	return errors.As(err, &outer) && errors.As(outer.Err, &inner) || !errors.As(err, &resp)
}

// sizeError matches EC2's refusal of a size.
var sizeError = regexp.MustCompile(`(?i)^volume of (size )?\d+ ?Gi?B is (too|smaller)`)

// limitText matches a limit in EC2's message: "maximum is 80000", "minimum is 125GiB", "Iops to
// volume size ratio of 1000.0 is too high; maximum is 500.0".
var limitText = regexp.MustCompile(`(?i)(maximum|minimum) is:? ?(\d+)`)

// The kinds of limits.
const (
	limitMinSize = "size, at least" // GiB
	limitMaxSize = "size, at most"
	limitMinIOPS = "IOPS, at least"
	limitMaxIOPS = "IOPS, at most"
	limitRatio   = "IOPS a GiB, at most"
)

// limitOf finds the limit in an error; ok is false if the error names no known limit.
func limitOf(err error) (which string, n int64, ok bool) {
	var e *ec2Error
	if !errors.As(err, &e) || e.code != codeBadValue {
		return "", 0, false
	}
	m := limitText.FindStringSubmatch(e.message)
	if m == nil {
		return "", 0, false
	}
	text, least := strings.ToLower(e.message), strings.EqualFold(m[1], "minimum")
	switch iops := strings.Contains(text, "iops"); {
	case strings.Contains(text, "throughput"):
		return "", 0, false
	case iops && strings.Contains(text, "ratio"):
		which = limitRatio
	case iops && least:
		which = limitMinIOPS
	case iops:
		which = limitMaxIOPS
	case sizeError.MatchString(e.message) && least:
		which = limitMinSize
	case sizeError.MatchString(e.message):
		which = limitMaxSize
	default:
		return "", 0, false
	}
	n, perr := strconv.ParseInt(m[2], 10, 64)
	return which, n, perr == nil
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
