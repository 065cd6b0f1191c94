// Package awsclient is a layer between the AWS SDK and net/http that all users of the SDK need.
package awsclient
