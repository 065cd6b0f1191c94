package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// TestMain ensures that all tests use only loopback: it disables the default endpoint, the metadata
// service and shared files.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL":                  "http://127.0.0.1:1",
		"AWS_ENDPOINT_URL_S3":               "http://127.0.0.1:1",
		"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1",
		"AWS_EC2_METADATA_DISABLED":         "true",
		"AWS_CONFIG_FILE":                   os.DevNull,
		"AWS_SHARED_CREDENTIALS_FILE":       os.DevNull,
		"AWS_ACCESS_KEY_ID":                 "test",
		"AWS_SECRET_ACCESS_KEY":             "test",
		"AWS_REGION":                        "us-east-1",
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

const fakeBucket = "bucket"

// fakeS3 starts an S3 server in this process. wrap may wrap its handler.
func fakeS3(t *testing.T, wrap func(http.Handler) http.Handler) *httptest.Server {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket(fakeBucket); err != nil {
		t.Fatal(err)
	}
	h := gofakes3.New(backend).Server()
	if wrap != nil {
		h = wrap(h)
	}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server
}

func openFake(t *testing.T, server *httptest.Server, prefix string, attempts int) *S3 {
	t.Helper()
	s, err := OpenS3(t.Context(), S3Options{Bucket: fakeBucket, Prefix: prefix, Region: "us-east-1", Endpoint: server.URL, PathStyle: true,
		Attempts: attempts, Credentials: credentials.NewStaticCredentialsProvider("key", "secret", ""), pageKeys: 7, maxPause: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestS3Retries checks that requests are repeated after temporary failures, with the whole body.
func TestS3Retries(t *testing.T) {
	var mu sync.Mutex
	failed := map[string]int{}
	server := fakeS3(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			failed[r.Method]++
			n := failed[r.Method]
			mu.Unlock()
			if n > 2 {
				h.ServeHTTP(w, r)
				return
			}
			if _, err := io.CopyN(io.Discard, r.Body, 10); err != nil && !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			w.WriteHeader(http.StatusServiceUnavailable)
		})
	})
	s := openFake(t, server, "", 4)
	data := bytes.Repeat([]byte("data"), 1<<18)
	if created, err := s.Put(t.Context(), "x", data); err != nil || !created {
		t.Fatalf("%v, %v", created, err)
	}
	if got, err := s.Get(t.Context(), "x", nil, len(data)); err != nil || !bytes.Equal(got, data) {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, method := range []string{"PUT", "GET", "HEAD", "DELETE"} {
		if failed[method] != 3 {
			t.Errorf("%s: %d requests", method, failed[method])
		}
	}
}

// TestS3BrokenAnswers checks that an object is read again if its answer breaks off, that the result
// is an error if all answers break off, and that a truncated object is never returned.
func TestS3BrokenAnswers(t *testing.T) {
	var breaks atomic.Int64
	server := fakeS3(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || breaks.Add(-1) < 0 {
				h.ServeHTTP(w, r)
				return
			}
			whole := httptest.NewRecorder()
			h.ServeHTTP(whole, r)
			for k, v := range whole.Header() {
				w.Header()[k] = v
			}
			w.Header().Set("Content-Length", fmt.Sprint(whole.Body.Len()))
			if _, err := w.Write(whole.Body.Bytes()[:whole.Body.Len()/2]); err != nil {
				t.Error(err)
			}
			panic(http.ErrAbortHandler)
		})
	})
	s := openFake(t, server, "", 3)
	data := bytes.Repeat([]byte("data"), 1<<16)
	if _, err := s.Put(t.Context(), "x", data); err != nil {
		t.Fatal(err)
	}
	breaks.Store(2)
	if got, err := s.Get(t.Context(), "x", nil, len(data)); err != nil || !bytes.Equal(got, data) {
		t.Errorf("after two broken answers: %v", err)
	}
	breaks.Store(1000)
	if _, err := s.Get(t.Context(), "x", nil, len(data)); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("all answers break off: %v", err)
	}
}

// TestS3Refused checks that permanent errors are returned immediately, and are not mistaken for a
// missing object.
func TestS3Refused(t *testing.T) {
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		w.Header().Set("Content-Type", "application/xml")
		code, status := "AccessDenied", http.StatusForbidden
		if strings.Contains(r.URL.Path, "nobucket") {
			code, status = "NoSuchBucket", http.StatusNotFound
		}
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no</Message></Error>", code)
	}))
	defer server.Close()
	s := openFake(t, server, "", 5)
	for _, key := range []string{"x", "nobucket"} {
		_, put := s.Put(t.Context(), key, []byte("x"))
		_, get := s.Get(t.Context(), key, nil, 10)
		for i, err := range []error{put, get, s.Replace(t.Context(), key, nil)} {
			if err == nil || errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), key) {
				t.Errorf("%s: call %d: %v", key, i, err)
			}
		}
	}
	if n := requests.Load(); n != 7 { // the refused get also checks whether the object exists
		t.Errorf("%d requests, want 7", n)
	}
}

// TestS3Bounded checks the limit of concurrent requests, and that waiting ends with the context.
func TestS3Bounded(t *testing.T) {
	var now, most atomic.Int64
	arrived, release := make(chan struct{}, 100), make(chan struct{})
	server := fakeS3(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n := now.Add(1)
			defer now.Add(-1)
			for {
				m := most.Load()
				if n <= m || most.CompareAndSwap(m, n) {
					break
				}
			}
			arrived <- struct{}{}
			<-release
			h.ServeHTTP(w, r)
		})
	})
	s, err := OpenS3(t.Context(), S3Options{Bucket: fakeBucket, Region: "us-east-1", Endpoint: server.URL, PathStyle: true, Requests: 3,
		Credentials: credentials.NewStaticCredentialsProvider("key", "secret", "")})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := s.Put(context.Background(), fmt.Sprint("x", i), []byte("x")); err != nil {
				t.Error(err)
			}
		})
	}
	for range 3 {
		<-arrived
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Get(ctx, "x1", nil, 10); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting: %v", err)
	}
	close(release)
	wg.Wait()
	if most.Load() != 3 {
		t.Errorf("%d requests at once", most.Load())
	}
}

// TestS3Slow checks that a request to a store that does not answer ends with the context, and that
// the caller may reuse its bytes afterwards.
func TestS3Slow(t *testing.T) {
	arrived, release := make(chan struct{}, 10), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	}))
	defer server.Close()
	defer close(release)
	s := openFake(t, server, "", 3)
	why := errors.New("enough")
	for _, call := range []func(ctx context.Context) error{
		func(ctx context.Context) error { _, err := s.Get(ctx, "x", nil, 10); return err },
		func(ctx context.Context) error {
			b := make([]byte, 4<<20)
			_, err := s.Put(ctx, "x", b)
			for i := range b { // a data race, if another goroutine still reads it
				b[i] = 1
			}
			return err
		},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			<-arrived
			cancel(why)
		}()
		if err := call(ctx); !errors.Is(err, why) {
			t.Errorf("%v", err)
		}
	}
}

// TestS3Stalls checks that a request is repeated if the server stops reading an object, does not
// answer, or stops in the middle of an answer. If it always stalls, the result is an error.
func TestS3Stalls(t *testing.T) {
	release := make(chan struct{})
	var stalls atomic.Int64
	data := bytes.Repeat([]byte("data"), 4<<20) // more than the buffers of sockets
	server := fakeS3(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if stalls.Add(-1) < 0 {
				h.ServeHTTP(w, r)
				return
			}
			if r.Method == http.MethodGet {
				w.Header().Set("Content-Length", fmt.Sprint(len(data)))
				_, _ = w.Write(data[:1000])
				_ = http.NewResponseController(w).Flush()
			}
			<-release
		})
	})
	t.Cleanup(func() { close(release) }) // before the server waits for the connections
	s, err := OpenS3(t.Context(), S3Options{Bucket: fakeBucket, Region: "us-east-1", Endpoint: server.URL, PathStyle: true, Attempts: 3,
		Credentials: credentials.NewStaticCredentialsProvider("key", "secret", ""), maxPause: time.Millisecond, maxStall: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	stalls.Store(1)
	if _, err := s.Put(t.Context(), "x", data); err != nil {
		t.Fatalf("put: %v", err)
	}
	stalls.Store(1)
	if got, err := s.Get(t.Context(), "x", nil, len(data)); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("get: %v", err)
	}
	stalls.Store(1)
	if _, err := s.Stat(t.Context(), "x"); err != nil {
		t.Fatalf("stat: %v", err)
	}
	stalls.Store(1000)
	if _, err := s.Get(t.Context(), "x", nil, len(data)); err == nil || !strings.Contains(err.Error(), "x") || !strings.Contains(err.Error(), "timeout") {
		t.Errorf("always: %v", err)
	}
}

func TestURLs(t *testing.T) {
	dir := t.TempDir()
	for url, want := range map[string]string{
		"file://" + dir:                           "",
		"file://" + dir + "/new":                  "",
		"file://localhost" + dir:                  "",
		"file://host" + dir:                       "ABSOLUTE",
		"file:relative":                           "not a store's URL",
		"file://" + dir + "?x=1":                  "ABSOLUTE",
		"file://" + dir + "/none/none":            "no such file",
		"s3://bucket":                             "",
		"s3://bucket/a/b?region=eu-central-1":     "",
		"s3://bucket?endpoint=http://127.0.0.1:1": "",
		"s3://bucket?endpoint=ftp://x":            "endpoint",
		"s3://bucket?endpoint=http://u:p@x":       "endpoint",
		"s3://bucket?path-style=maybe":            "path-style",
		"s3://bucket?regoin=x":                    "unknown parameter",
		"s3://bucket?region=a&region=b":           "several times",
		"s3:///prefix":                            "the bucket is missing",
		"s3://user:word@bucket":                   "credentials",
		"s3://bucket/../x":                        "invalid key",
		"http://x":                                "file:// or s3://",
		dir:                                       "file:// or s3://",
		"s3://bucket\x7f":                         "invalid syntax",
	} {
		s, err := Open(t.Context(), url, true)
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", url, err)
				continue
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "word") {
			t.Errorf("%s: the error repeats a password", url)
		}
	}
	if _, err := Open(t.Context(), "file://"+dir+"/other", false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
