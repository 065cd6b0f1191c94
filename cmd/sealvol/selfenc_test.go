package main

import (
	"net/http/httptest"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/rogpeppe/go-internal/testscript"
)

// fakeS3 starts an S3 on loopback, which is all that the script's commands reach.
func fakeS3(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: s3 NAME")
	}
	backend := s3mem.New()
	ts.Check(backend.CreateBucket("bucket"))
	server := httptest.NewServer(gofakes3.New(backend).Server())
	ts.Defer(server.Close)
	ts.Setenv(args[0], server.URL)
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL":                  "http://127.0.0.1:1",
		"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1",
		"AWS_EC2_METADATA_DISABLED":         "true",
		"AWS_CONFIG_FILE":                   "/dev/null",
		"AWS_SHARED_CREDENTIALS_FILE":       "/dev/null",
		"AWS_ACCESS_KEY_ID":                 "test",
		"AWS_SECRET_ACCESS_KEY":             "test",
	} {
		ts.Setenv(name, value)
	}
}
