package awsclient

import (
	"io"
	"net/http"
)

// Doer is aws.HTTPClient.
type Doer interface {
	// Do sends a request and returns the answer.
	Do(r *http.Request) (*http.Response, error)
}

// PlainBody hides WriteTo of request bodies. That of smithy-go fails with io.EOF once the SDK has closed the body, which net/http then takes for a failed
// request and cuts the connection, if an answer arrives before net/http has looked for the end of the body: one call in some thousands.
// For aws.Config.HTTPClient, once the configuration is loaded.
type PlainBody struct{ Client Doer }

// Do implements Doer.
func (p PlainBody) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody { // which net/http knows by its identity
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	return p.Client.Do(r)
}
