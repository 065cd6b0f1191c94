package chunkstore

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// wire records the requests to an S3 server, and emulates its locks.
type wire struct {
	mu    sync.Mutex
	seen  []*http.Request      // guarded by mu
	locks map[string]time.Time // by path; guarded by mu
	mode  string               // of all locks; guarded by mu
}

func newWire(t *testing.T) (*wire, *httptest.Server) {
	w := &wire{locks: map[string]time.Time{}, mode: "COMPLIANCE"}
	return w, fakeS3(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			w.mu.Lock()
			w.seen = append(w.seen, r.Clone(r.Context()))
			until, locked := w.locks[r.URL.Path]
			mode := w.mode
			w.mu.Unlock()
			switch {
			case r.URL.Query().Has("retention") && r.Method == http.MethodGet && !locked:
				rw.WriteHeader(http.StatusNotFound)
				_, _ = io.WriteString(rw, `<Error><Code>NoSuchObjectLockConfiguration</Code></Error>`)
			case r.URL.Query().Has("retention") && r.Method == http.MethodGet:
				_, _ = fmt.Fprintf(rw, `<Retention><Mode>%s</Mode><RetainUntilDate>%s</RetainUntilDate></Retention>`, mode, until.UTC().Format(time.RFC3339))
			case r.URL.Query().Has("retention"):
				b, _ := io.ReadAll(r.Body)
				r.Header.Set("X-Body", string(b))
				w.mu.Lock()
				w.seen[len(w.seen)-1].Header.Set("X-Body", string(b))
				w.mu.Unlock()
			default:
				h.ServeHTTP(rw, r)
			}
		})
	})
}

// take returns the requests since the last call.
func (w *wire) take() []*http.Request {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.seen
	w.seen = nil
	return l
}

// lock locks an object below the prefix of openWire.
func (w *wire) lock(key string, until time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.locks["/"+fakeBucket+"/p/"+key] = until
}

func openURL(server *httptest.Server, params string) string {
	return "s3://" + fakeBucket + "/p?region=us-east-1&endpoint=" + url.QueryEscape(server.URL) + params
}

func openWire(t *testing.T, server *httptest.Server, params string) Store {
	t.Helper()
	s, err := Open(t.Context(), openURL(server, params), false)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// everyCall makes a request of each kind that a store uses.
func everyCall(t *testing.T, s Store) {
	t.Helper()
	_, err := s.Put(t.Context(), "x", []byte("one"))
	err = errors.Join(err, s.Replace(t.Context(), "x", []byte("two")))
	_, gerr := s.Get(t.Context(), "x", nil, 10)
	_, serr := s.Stat(t.Context(), "x")
	for _, lerr := range s.List(t.Context(), "", "") {
		err = errors.Join(err, lerr)
	}
	if err = errors.Join(err, gerr, serr, s.Delete(t.Context(), "x")); err != nil {
		t.Fatal(err)
	}
}

// TestS3RequestOptions checks that each option is a header of the requests that it applies to, and
// of no others.
func TestS3RequestOptions(t *testing.T) {
	w, server := newWire(t)
	const sse, key, payer, class, tagging, lock, until = "X-Amz-Server-Side-Encryption", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id", "X-Amz-Request-Payer", "X-Amz-Storage-Class", "X-Amz-Tagging",
		"X-Amz-Object-Lock-Mode", "X-Amz-Object-Lock-Retain-Until-Date"
	all := []string{sse, key, payer, class, tagging, lock, until}
	for _, c := range []struct {
		params string
		want   map[string]string // of puts
	}{
		{"", nil},
		{"&sse=AES256", map[string]string{sse: "AES256"}},
		{"&sse=aws:kms", map[string]string{sse: "aws:kms"}},
		{"&sse=aws:kms:dsse&sse-kms-key-id=arn:aws:kms:x:1:key/2", map[string]string{sse: "aws:kms:dsse", key: "arn:aws:kms:x:1:key/2"}},
		{"&request-payer=requester", map[string]string{payer: "requester"}},
		{"&storage-class=STANDARD_IA", map[string]string{class: "STANDARD_IA"}},
		{"&tags=" + url.QueryEscape("expire=after 30d,team=a&b=c"), map[string]string{tagging: "expire=after+30d&team=a%26b%3Dc"}},
	} {
		everyCall(t, openWire(t, server, c.params))
		requests := w.take()
		if len(requests) != 6 {
			t.Fatalf("%s: %d requests", c.params, len(requests))
		}
		for _, r := range requests {
			for _, h := range all {
				want := c.want[h]
				if r.Method != http.MethodPut && h != payer {
					want = ""
				}
				if got := r.Header.Get(h); got != want {
					t.Errorf("%s: %s has %s: %q, want %q", c.params, r.Method, h, got, want)
				}
			}
			for h := range r.Header {
				if strings.Contains(h, "Customer") {
					t.Errorf("%s: %s", c.params, h)
				}
			}
		}
	}
}

// TestS3Locks checks that stored objects are locked, even if they existed, at most once a day, and
// that deleting a locked object is an error with the date.
func TestS3Locks(t *testing.T) {
	w, server := newWire(t)
	s := openWire(t, server, "&object-lock=GOVERNANCE&retain-days=30&request-payer=requester")
	if _, err := s.Put(t.Context(), "x", []byte("one")); err != nil {
		t.Fatal(err)
	}
	put := w.take()[0]
	until, err := time.Parse(time.RFC3339, put.Header.Get("X-Amz-Object-Lock-Retain-Until-Date"))
	if left := time.Until(until); err != nil || put.Header.Get("X-Amz-Object-Lock-Mode") != "GOVERNANCE" || left < 30*day || left > 31*day {
		t.Fatalf("%v, %v, %v", put.Header, left, err)
	}
	if put.Header.Get("X-Amz-Checksum-Crc32c") == "" && put.Header.Get("X-Amz-Trailer") == "" {
		t.Error("S3 takes no lock without a checksum")
	}
	again := func(locked time.Time) (renewed string) {
		t.Helper()
		w.mu.Lock()
		w.locks["/"+fakeBucket+"/p/x"] = locked
		w.mu.Unlock()
		if created, err := s.Put(t.Context(), "x", []byte("one")); err != nil || created {
			t.Fatal(created, err)
		}
		for _, r := range w.take() {
			if r.Header.Get("X-Amz-Request-Payer") != "requester" {
				t.Errorf("%s %s without a payer", r.Method, r.URL)
			}
			if r.Method == http.MethodPut && r.URL.Query().Has("retention") {
				renewed = r.Header.Get("X-Body")
			}
		}
		return renewed
	}
	if r := again(time.Now().Add(30*day + time.Hour)); r != "" {
		t.Errorf("renewed too early: %s", r)
	}
	r := again(time.Now().Add(29 * day))
	_, date, _ := strings.Cut(r, "<RetainUntilDate>")
	date, _, _ = strings.Cut(date, "<")
	until, err = time.Parse(time.RFC3339, date)
	if left := time.Until(until); err != nil || !strings.Contains(r, "<Mode>COMPLIANCE</Mode>") || left < 30*day || left > 31*day {
		t.Errorf("renewed to %q, %v", r, err)
	}
	err = s.Delete(t.Context(), "x")
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "x") || !strings.Contains(err.Error(), "COMPLIANCE") {
		t.Errorf("%v", err)
	}
	for _, r := range w.take() {
		if r.Method == http.MethodDelete {
			t.Error("a locked object was deleted")
		}
	}
	w.mu.Lock()
	w.locks["/"+fakeBucket+"/p/x"] = time.Now().Add(-time.Second)
	w.mu.Unlock()
	if err := errors.Join(s.Delete(t.Context(), "x"), s.Delete(t.Context(), "none")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), "x"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// TestS3WeakerLock checks that Put with COMPLIANCE fails for a chunk that is locked in mode
// GOVERNANCE, whatever its date.
func TestS3WeakerLock(t *testing.T) {
	w, server := newWire(t)
	if _, err := openWire(t, server, "").Put(t.Context(), "x", []byte("one")); err != nil {
		t.Fatal(err)
	}
	w.mode, w.locks["/"+fakeBucket+"/p/x"] = "GOVERNANCE", time.Now().Add(365*day)
	_, err := openWire(t, server, "&object-lock=COMPLIANCE&retain-days=30").Put(t.Context(), "x", []byte("one"))
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "GOVERNANCE") {
		t.Errorf("kept weaker than asked for: %v", err)
	}
	if _, err := openWire(t, server, "&object-lock=GOVERNANCE&retain-days=30").Put(t.Context(), "x", []byte("one")); err != nil {
		t.Error(err)
	}
}

// TestS3LockOfWhatVanishes checks that an object that is deleted after Put found it, and before its
// lock is renewed, is stored again.
func TestS3LockOfWhatVanishes(t *testing.T) {
	for _, at := range []string{http.MethodGet, http.MethodPut} {
		vanished := false
		server := fakeS3(t, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				switch {
				case !r.URL.Query().Has("retention"):
					h.ServeHTTP(rw, r)
				case r.Method != at: // no lock
					rw.WriteHeader(http.StatusNotFound)
					_, _ = io.WriteString(rw, `<Error><Code>NoSuchObjectLockConfiguration</Code></Error>`)
				default:
					vanished = true
					gone := httptest.NewRequestWithContext(r.Context(), http.MethodDelete, r.URL.Path, http.NoBody)
					h.ServeHTTP(httptest.NewRecorder(), gone)
					rw.WriteHeader(http.StatusNotFound)
					_, _ = io.WriteString(rw, `<Error><Code>NoSuchKey</Code></Error>`)
				}
			})
		})
		if _, err := openWire(t, server, "").Put(t.Context(), "x", []byte("one")); err != nil {
			t.Fatal(err)
		}
		s := openWire(t, server, "&object-lock=GOVERNANCE&retain-days=30")
		created, err := s.Put(t.Context(), "x", []byte("one"))
		if err != nil || !created || !vanished {
			t.Fatalf("%s: created %v, vanished %v, %v", at, created, vanished, err)
		}
		if b, err := s.Get(t.Context(), "x", nil, 10); err != nil || string(b) != "one" {
			t.Errorf("%s: %q, %v", at, b, err)
		}
	}
}

// TestS3Absent tests missing objects for a user who may list only below the prefix, as in
// docs/iam/chunkstore.json. S3 returns "access denied" for them. The result must be ErrNotFound,
// but not for an existing object without access.
func TestS3Absent(t *testing.T) {
	server := fakeS3(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			whole := httptest.NewRecorder()
			switch {
			case r.URL.Query().Has("retention"):
				whole.WriteHeader(http.StatusNotFound)
			case strings.HasSuffix(r.URL.Path, "/refused") && r.Method != http.MethodPut:
				whole.WriteHeader(http.StatusNotFound)
			default:
				h.ServeHTTP(whole, r)
			}
			if whole.Code == http.StatusNotFound {
				rw.WriteHeader(http.StatusForbidden)
				if r.Method != http.MethodHead {
					_, _ = io.WriteString(rw, `<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>`)
				}
				return
			}
			for k, v := range whole.Header() {
				rw.Header()[k] = v
			}
			rw.WriteHeader(whole.Code)
			_, _ = rw.Write(whole.Body.Bytes())
		})
	})
	s := openWire(t, server, "&object-lock=GOVERNANCE&retain-days=30")
	for _, key := range []string{"refused", "absent-and-longer"} {
		if _, err := s.Put(t.Context(), key, []byte("one")); err != nil {
			t.Fatal(err)
		}
	}
	for key, absent := range map[string]bool{"absent": true, "refused": false} {
		_, gerr := s.Get(t.Context(), key, nil, 10)
		_, serr := s.Stat(t.Context(), key)
		for _, err := range []error{gerr, serr} {
			if err == nil || errors.Is(err, ErrNotFound) != absent {
				t.Errorf("%s: %v", key, err)
			}
		}
		if err := s.Delete(t.Context(), key); (err == nil) != absent {
			t.Errorf("delete %s: %v", key, err)
		}
	}
}

// TestS3BadRequestOptions checks that invalid options, which would fail at the first chunk or lose
// data later, are refused immediately.
func TestS3BadRequestOptions(t *testing.T) {
	many := make([]string, 11)
	for i := range many {
		many[i] = fmt.Sprintf("t%d=x", i)
	}
	for params, want := range map[string]string{
		"sse=rot13":                                "AES256, aws:kms or aws:kms:dsse",
		"sse-kms-key-id=k":                         "requires sse=aws:kms",
		"sse=AES256&sse-kms-key-id=k":              "requires sse=aws:kms",
		"sse-c-key=secretvalue":                    "SSE-C is not supported",
		"sse-customer-key=secretvalue":             "SSE-C is not supported",
		"request-payer=me":                         "request-payer must be requester",
		"storage-class=DEEP_ARCHIVE":               "before they are restored",
		"storage-class=GLACIER":                    "before they are restored",
		"storage-class=a%20b":                      "storage class",
		"tags=x":                                   "key=value",
		"tags=":                                    "key=value",
		"tags=x=1,x=2":                             "each key once",
		"tags=" + strings.Join(many, ","):          "at most 10",
		"tags=aws:x=1":                             "aws:",
		"tags=x=" + strings.Repeat("y", 257):       "up to 256",
		"tags=" + strings.Repeat("y", 129) + "=":   "1 to 128",
		"object-lock=GOVERNANCE":                   "given together",
		"retain-days=5":                            "given together",
		"object-lock=MAYBE&retain-days=5":          "GOVERNANCE or COMPLIANCE",
		"object-lock=COMPLIANCE&retain-days=0":     "number of days",
		"object-lock=COMPLIANCE&retain-days=1d":    "number of days",
		"object-lock=COMPLIANCE&retain-days=36501": "36500 days",
	} {
		_, err := Open(t.Context(), "s3://bucket?region=us-east-1&"+params, true)
		if !errors.Is(err, ErrURL) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secretvalue") {
			t.Errorf("%s: %v, want %q", params, err, want)
		}
	}
	for _, link := range []string{"s3:///p?sse-c-key=secretvalue", "s3://bucket?sse-c-key=secretvalue#x", "s3:bucket?sse-c-key=secretvalue", "file:///x?sse-c-key=secretvalue"} {
		if _, err := Open(t.Context(), link, false); !errors.Is(err, ErrURL) || strings.Contains(err.Error(), "secretvalue") {
			t.Errorf("%v", err)
		}
	}
	if _, err := OpenS3(t.Context(), S3Options{Bucket: "b", Region: "x", S3RequestOptions: S3RequestOptions{Lock: "GOVERNANCE"}}); err == nil {
		t.Error("a lock without an end")
	}
}

// TestS3Identity checks that requests are signed with the credentials from STS or from the agent,
// if the environment is that of a pod with IRSA or Pod Identity.
func TestS3Identity(t *testing.T) {
	var mu sync.Mutex
	var who []string
	server := fakeS3(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			_, key, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
			key, _, _ = strings.Cut(key, "/")
			mu.Lock()
			who = append(who, key+" "+r.Header.Get("X-Amz-Security-Token"))
			mu.Unlock()
			h.ServeHTTP(rw, r)
		})
	})
	later := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	givers := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch {
		case r.Method == http.MethodGet && r.Header.Get("Authorization") == "token":
			_, _ = fmt.Fprintf(rw, `{"AccessKeyId":"POD","SecretAccessKey":"s","Token":"podsession","Expiration":%q}`, later)
		case strings.Contains(string(body), "WebIdentityToken=token"):
			_, _ = fmt.Fprintf(rw, `<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>WEB</AccessKeyId><SecretAccessKey>s</SecretAccessKey>
<SessionToken>websession</SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, later)
		default:
			http.Error(rw, "no", http.StatusForbidden)
		}
	}))
	defer givers.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("token"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, env := range map[string]map[string]string{
		"WEB websession": {"AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/chunks", "AWS_WEB_IDENTITY_TOKEN_FILE": token, "AWS_ENDPOINT_URL_STS": givers.URL},
		"POD podsession": {"AWS_CONTAINER_CREDENTIALS_FULL_URI": givers.URL + "/v1/credentials", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": token},
	} {
		t.Run(want, func(t *testing.T) {
			t.Setenv("AWS_ACCESS_KEY_ID", "")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "")
			for k, v := range env {
				t.Setenv(k, v)
			}
			who = nil
			everyCall(t, openWire(t, server, ""))
			if len(who) != 6 || slices.ContainsFunc(who, func(s string) bool { return s != want }) {
				t.Errorf("signed by %q", who)
			}
		})
	}
}
