package awsclient

import (
	"io"
	"net/http"
)

// Doer is the interface aws.HTTPClient.
type Doer interface {
	// Do sends a request and returns the response.
	Do(r *http.Request) (*http.Response, error)
}

// PlainBody hides the method WriteTo of request bodies. WriteTo of smithy-go returns io.EOF once
// the SDK has closed the body. If a response arrives before net/http has looked for the end of the
// body, net/http treats this as a failed request and closes the connection, in about one of several
// thousand calls. Use PlainBody as aws.Config.HTTPClient after loading the configuration.
type PlainBody struct{ Client Doer }

// Do implements Doer.
func (p PlainBody) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody { // net/http compares with http.NoBody
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	return p.Client.Do(r)
}
