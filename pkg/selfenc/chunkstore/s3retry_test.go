package chunkstore

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
)

// TestRetryingTells: a store that does not answer is reported once, before all attempts have failed.
func TestRetryingTells(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil { // nobody listens there now
		t.Fatal(err)
	}
	var told []string
	s, err := OpenS3(t.Context(), S3Options{Bucket: "b", Region: "us-east-1", Endpoint: "http://" + l.Addr().String(), PathStyle: true,
		Attempts: 4, maxPause: time.Millisecond, Credentials: credentials.NewStaticCredentialsProvider("a", "b", ""),
		Retrying: func(err error) { told = append(told, err.Error()) }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "x", nil, 10); err == nil {
		t.Error("an answer from nobody")
	}
	if len(told) != 1 || !strings.HasPrefix(told[0], "dial tcp ") {
		t.Errorf("told %q", told)
	}
}
