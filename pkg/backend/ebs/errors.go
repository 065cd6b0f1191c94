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
	codeBadVolume     = "InvalidVolumeID.Malformed"
	codeBadInstance   = "InvalidInstanceID.Malformed"
	codeNoSnapshot    = "InvalidSnapshot.NotFound"
	codeNextToken     = "InvalidNextToken"
	codeNotPermitted  = "OperationNotPermitted"
	codeDeviceInUse   = "InvalidDevice.InUse"
	codeDryRun        = "DryRunOperation"
)

// kinds says what EC2's codes mean to a backend's caller: all that the reference lists and that the
// calls of api can answer.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
// What is not here is judged by its HTTP status (kindOf).
var kinds = map[string]error{
	// There is no such thing.
	codeVolumeGone:                backend.ErrNotFound,
	codeBadVolume:                 backend.ErrNotFound,
	"InvalidVolumeID.NotFound":    backend.ErrNotFound,
	"InvalidID":                   backend.ErrNotFound, // of tags
	codeNoSnapshot:                backend.ErrSnapshotNotFound,
	"InvalidSnapshotID.Malformed": backend.ErrSnapshotNotFound,
	codeNoInstance:                backend.ErrNodeNotFound,
	"InvalidInstanceID":           backend.ErrNodeNotFound,
	codeBadInstance:               backend.ErrNodeNotFound,

	// The account has no more of it, for good or for now.
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

	// Not there: another node or zone may do.
	"AttachmentLimitExceeded":         backend.ErrTooManyAttached,
	"InstanceAttachmentLimitExceeded": backend.ErrTooManyAttached,
	"InvalidZone.NotFound":            backend.ErrTopology,
	"InvalidVolume.ZoneMismatch":      backend.ErrTopology,
	"InvalidVolumeID.ZoneMismatch":    backend.ErrTopology,
	"InsufficientVolumeCapacity":      backend.ErrTopology,
	"VolumeTypeNotAvailableInZone":    backend.ErrTopology,

	// Somebody uses it.
	codeInUse:                   backend.ErrBusy,
	codeState:                   backend.ErrBusy,
	"InvalidState":              backend.ErrBusy,
	"InvalidSnapshot.InUse":     backend.ErrBusy, // an image was made of it
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
	"EncryptedVolumesNotSupported": backend.ErrInvalid, // by the instance
	"InvalidKMSKey.InvalidState":   backend.ErrInvalid,
	"InvalidKmsKey.InvalidState":   backend.ErrInvalid,
	"CustomerKeyHasBeenRevoked":    backend.ErrInvalid,

	// Who asks may not, until somebody changes that.
	"UnauthorizedOperation":      backend.ErrDenied,
	"AuthFailure":                backend.ErrDenied,
	"Blocked":                    backend.ErrDenied,
	"IncompleteSignature":        backend.ErrDenied,
	"InvalidClientTokenId":       backend.ErrDenied,
	"MissingAuthenticationToken": backend.ErrDenied,
	"OptInRequired":              backend.ErrDenied,
	"PendingVerification":        backend.ErrDenied,
	"SignatureDoesNotMatch":      backend.ErrDenied,

	// It passes by itself: repeat it.
	codeModifying:            backend.ErrUnavailable,
	codeNotPermitted:         backend.ErrUnavailable, // of what is being modified
	codeTokenMismatch:        backend.ErrUnavailable,
	"IncorrectInstanceState": backend.ErrUnavailable,
	"ConcurrentTagAccess":    backend.ErrUnavailable,
	"RequestExpired":         backend.ErrUnavailable, // a clock is wrong, or the request was long under way
	"ExpiredToken":           backend.ErrUnavailable, // new credentials come
	"ExpiredTokenException":  backend.ErrUnavailable,
	"RequestLimitExceeded":   backend.ErrUnavailable,
	"Throttling":             backend.ErrUnavailable,
	"InternalError":          backend.ErrUnavailable,
	"InternalFailure":        backend.ErrUnavailable,
	"ServiceUnavailable":     backend.ErrUnavailable,
	"Unavailable":            backend.ErrUnavailable,
}

// kindOf gives a code its kind; what nobody has heard of has that of the HTTP status with which it
// came.
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

// advice says what a person can do about a code whose own words do not.
func advice(code, message string) string {
	text := strings.ToLower(code + " " + message)
	switch {
	case code == "CustomerKeyHasBeenRevoked" || strings.Contains(text, "kms"):
		return keyHint("")
	case code == "RequestExpired":
		return "compare this machine's clock with another's"
	case kinds[code] == backend.ErrDenied: //nolint:errorlint // the table's own values
		return "nothing was done; compare the role of the driver with docs/iam"
	}
	return ""
}

// keyHint says what to do about a volume that comes to nothing since KMS refuses its key. EC2
// seldom says so itself.
func keyHint(key string) string {
	if key == "" {
		key = "of the volume (or the default key of the account for EBS)"
	}
	return "a KMS key that does not exist, is disabled, or that the driver's role may not use does that: look whether the key " + key +
		" is enabled and whether docs/iam/kms.json is allowed for it"
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

// statusOf is the HTTP status of an answer, 0 if there was none.
func statusOf(err error) int {
	var resp *awshttp.ResponseError
	if !errors.As(err, &resp) {
		return 0
	}
	return resp.HTTPStatusCode()
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

// limitText is how EC2 tells a limit: "maximum is 80000", "minimum is 125GiB", "Iops to volume size
// ratio of 1000.0 is too high; maximum is 500.0".
var limitText = regexp.MustCompile(`(?i)(maximum|minimum) is:? ?(\d+)`)

// What a limit is one of.
const (
	limitMinSize = "size, at least" // GiB
	limitMaxSize = "size, at most"
	limitMinIOPS = "IOPS, at least"
	limitMaxIOPS = "IOPS, at most"
	limitRatio   = "IOPS a GiB, at most"
)

// limitOf finds the limit that an error tells of; "" if it tells of none that is known here.
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
