// Package awsclient is what all users of the AWS SDK need between it and net/http.
package awsclient
