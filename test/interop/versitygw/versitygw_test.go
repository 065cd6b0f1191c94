// Package versitygw tests the S3 store against the S3 gateway versitygw. The gateway listens on a
// Unix socket. The test listens on a loopback port and forwards to it.
package versitygw

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore/chunkstoretest"
)

const (
	bucket  = "chunks"
	access  = "test-access"
	secret  = "test-secret"
	gateway = "../../../build/bin/versitygw"
)

// TestMain ensures that all tests use only loopback.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL":                  "http://127.0.0.1:1",
		"AWS_ENDPOINT_URL_S3":               "http://127.0.0.1:1",
		"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1",
		"AWS_EC2_METADATA_DISABLED":         "true",
		"AWS_CONFIG_FILE":                   os.DevNull,
		"AWS_SHARED_CREDENTIALS_FILE":       os.DevNull,
		"AWS_ACCESS_KEY_ID":                 access,
		"AWS_SECRET_ACCESS_KEY":             secret,
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// start starts a gateway with a bucket, and returns its URL. change is called for every answer, and
// may change it.
func start(t *testing.T, change func(*http.Response) error) string {
	t.Helper()
	url := startGateway(t, change)
	if _, err := owner(url).CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String(bucket)}); err != nil {
		t.Fatalf("make a bucket: %v", err)
	}
	return url
}

// owner is the client of the user who owns everything. Until the gateway listens, the proxy returns
// 502, and the client retries.
func owner(url string) *s3.Client {
	return s3.New(s3.Options{BaseEndpoint: aws.String(url), UsePathStyle: true, Region: "us-east-1",
		Credentials: credentials.NewStaticCredentialsProvider(access, secret, ""),
		Retryer:     retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts, o.RateLimiter = 100, noLimit{} })})
}

// A user who owns nothing.
const (
	guest       = "test-guest"
	guestSecret = "test-guest-secret"
)

// startGateway starts a gateway with a guest and without buckets.
func startGateway(t *testing.T, change func(*http.Response) error) string {
	t.Helper()
	return gatewayOf(t, change, false)
}

// gatewayOf is startGateway. With versions, buckets with object lock keep the versions of their
// objects, as in S3.
func gatewayOf(t *testing.T, change func(*http.Response) error, versions bool) string {
	t.Helper()
	program, err := filepath.Abs(gateway)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v: `make interop` builds it", err)
	}
	// The gateway needs extended attributes, which not every /tmp supports. The path of a socket
	// must be short.
	data, err := os.MkdirTemp("../../../build", "versitygw-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	sockets, err := os.MkdirTemp("", "vgw") //nolint:usetesting // its path is short
	if err != nil {
		t.Fatal(err)
	}
	dirs := []string{data, sockets}
	t.Cleanup(func() {
		for _, dir := range dirs {
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		}
	})
	if err := os.WriteFile(filepath.Join(sockets, "users.json"), fmt.Appendf(nil, `{"accessAccounts":{%q:{"access":%[1]q,"secret":%q,"role":"user"}}}`, guest, guestSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(sockets, "s3")
	ctx, stop := context.WithCancel(context.Background())
	args := []string{"--port", socket, "--quiet", "--iam-dir", sockets, "posix"}
	if versions {
		dir := filepath.Join(data, "versions")
		if data = filepath.Join(data, "buckets"); os.Mkdir(dir, 0o700) != nil || os.Mkdir(data, 0o700) != nil {
			t.Fatal("cannot make the directories of the gateway")
		}
		args = append(args, "--versioning-dir", dir)
	}
	c := exec.CommandContext(ctx, program, append(args, data)...)
	c.Env = []string{"ROOT_ACCESS_KEY_ID=" + access, "ROOT_SECRET_ACCESS_KEY=" + secret, "PATH=" + os.Getenv("PATH")}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = c.Wait() // it was killed
	})
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { // the signature includes the host
			r.Out.URL.Scheme, r.Out.URL.Host = "http", r.In.Host
			r.Out.Host = r.In.Host
		},
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}},
		ModifyResponse: change,
	})
	t.Cleanup(proxy.Close)
	return proxy.URL
}

// noLimit allows every retry.
type noLimit struct{}

func (noLimit) GetToken(context.Context, uint) (func() error, error) {
	return func() error { return nil }, nil
}
func (noLimit) AddTokens(uint) error { return nil }

func TestConformance(t *testing.T) {
	url, n := start(t, nil), 0
	chunkstoretest.Run(t, func(t *testing.T, again bool) chunkstore.Store {
		if !again {
			n++
		}
		s, err := chunkstore.Open(t.Context(), fmt.Sprintf("s3://%s/prefix-%d?region=us-east-1&endpoint=%s", bucket, n, url), false)
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

// TestChecksums flips a bit in answers. The checksum of the object must detect it. The store must
// retry, and return an error if the bit is flipped every time.
func TestChecksums(t *testing.T) {
	var flips atomic.Int64
	url := start(t, func(r *http.Response) error {
		if r.Request.Method != http.MethodGet || flips.Add(-1) < 0 {
			return nil
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		b[len(b)/2] ^= 1
		r.Body = io.NopCloser(bytes.NewReader(b))
		return nil
	})
	s, err := chunkstore.Open(t.Context(), fmt.Sprintf("s3://%s?region=us-east-1&endpoint=%s", bucket, url), false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	data := bytes.Repeat([]byte("data"), 10_000)
	if _, err := s.Put(t.Context(), "x", data); err != nil {
		t.Fatal(err)
	}
	flips.Store(1)
	if got, err := s.Get(t.Context(), "x", nil, len(data)); err != nil || !bytes.Equal(got, data) {
		t.Errorf("once: %v", err)
	}
	flips.Store(2)
	limited, err := chunkstore.OpenS3(t.Context(), chunkstore.S3Options{Bucket: bucket, Region: "us-east-1", Endpoint: url, PathStyle: true, Attempts: 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := limited.Get(t.Context(), "x", nil, len(data)); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("always: %v", err)
	}
}
