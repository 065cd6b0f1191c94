package chunkstore

import (
	"errors"
	"net"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// ErrNoBucket is the error for a bucket that does not exist.
var ErrNoBucket = errors.New("no such bucket")

// ErrCredentials is the error if there are no credentials for the store, or it does not accept them.
var ErrCredentials = errors.New("missing or wrong credentials")

// tellingRetryer tells why requests are repeated. All attempts together can take minutes, in which
// the user would learn nothing.
type tellingRetryer struct {
	aws.Retryer
	tell func(err error)
}

// RetryDelay implements aws.Retryer. The SDK calls it before each further attempt.
func (r *tellingRetryer) RetryDelay(attempt int, err error) (time.Duration, error) {
	if attempt > 1 {
		reason := err
		var op *net.OpError
		if errors.As(err, &op) { // without the names of the SDK's layers
			reason = op
		}
		r.tell(reason)
	}
	return r.Retryer.RetryDelay(attempt, err)
}
