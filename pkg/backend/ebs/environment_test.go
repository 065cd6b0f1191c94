package ebs

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"

	"github.com/sealvol/sealvol/pkg/awsclient"
	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

// signers records the credentials with which EC2 is called, and passes everything on.
type signers struct {
	mu  sync.Mutex
	who []string // guarded by mu
}

func (s *signers) Do(r *http.Request) (*http.Response, error) {
	auth := r.Header.Get("Authorization")
	if _, who, ok := strings.Cut(auth, "Credential="); ok && strings.Contains(auth, "/ec2/") {
		who, _, _ = strings.Cut(who, "/")
		s.mu.Lock()
		s.who = append(s.who, who+" "+r.Header.Get("X-Amz-Security-Token"))
		s.mu.Unlock()
	}
	return http.DefaultClient.Do(r)
}

// noKeys gives the SDK's default chain only what the test sets, and addresses that lead nowhere.
func noKeys(t *testing.T) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
}

// TestWebIdentity: with what IRSA sets in a pod's environment, the token is exchanged at STS, and
// exchanged again, with the token of that time, when the credentials expire. EC2 is called with
// these credentials.
func TestWebIdentity(t *testing.T) {
	ec2 := newEC2(t, ec2test.Options{}, false)
	token := filepath.Join(t.TempDir(), "token")
	write := func(s string) {
		if err := os.WriteFile(token, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	var mu sync.Mutex
	var asked []string
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		q, err := url.ParseQuery(string(body))
		if err != nil || q.Get("Action") != "AssumeRoleWithWebIdentity" || q.Get("RoleArn") != "arn:aws:iam::123456789012:role/sealvol" || r.Header.Get("Authorization") != "" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		mu.Lock()
		asked = append(asked, q.Get("WebIdentityToken"))
		n := len(asked)
		mu.Unlock()
		_, _ = fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>
<AccessKeyId>KEY%d</AccessKeyId><SecretAccessKey>secret</SecretAccessKey><SessionToken>session%d</SessionToken><Expiration>%s</Expiration>
</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, n, n, time.Now().Add(-time.Minute).UTC().Format(time.RFC3339))
	}))
	defer sts.Close()
	noKeys(t)
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/sealvol")
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", token)
	t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)
	seen := &signers{}
	o := options(ec2)
	o.HTTPClient = seen
	b := open(t, o)
	_, err := b.Get(t.Context(), volX)
	wantErr(t, err, backend.ErrNotFound)
	write("second")
	_, err = b.Get(t.Context(), volX)
	wantErr(t, err, backend.ErrNotFound)
	if got := fmt.Sprint(asked); got != "[first second]" {
		t.Errorf("STS saw %s", got)
	}
	if got := fmt.Sprint(seen.who); got != "[KEY1 session1 KEY2 session2]" {
		t.Errorf("EC2 saw %s", got)
	}
	// A role that must not be assumed is an error, and nothing else is tried.
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/other")
	_, err = open(t, o).Get(t.Context(), volX)
	wantErr(t, err, backend.ErrUnavailable)
	if !strings.Contains(err.Error(), "STS") {
		t.Errorf("the error does not tell who refused: %v", err)
	}
	for _, secret := range []string{"first", "second"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error tells the token: %v", err)
		}
	}
	if len(seen.who) != 2 {
		t.Errorf("EC2 was asked with %s", seen.who[2:])
	}
}

// TestPodIdentity: with what EKS Pod Identity sets in a pod's environment, the agent is called with
// the token, and EC2 with the agent's credentials.
func TestPodIdentity(t *testing.T) {
	ec2 := newEC2(t, ec2test.Options{}, false)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("pod's token"), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/v1/credentials":
			http.Error(w, "no", http.StatusForbidden)
			return
		case r.Header.Get("Authorization") == "code": // an agent with error codes, one of which EC2 also has
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"code":"InvalidParameter","message":"the agent's reason"}`)
			return
		case r.Header.Get("Authorization") != "pod's token":
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		_, _ = fmt.Fprintf(w, `{"AccessKeyId":"PODKEY","SecretAccessKey":"secret","Token":"podsession","AccountId":"123456789012","Expiration":%q}`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	defer agent.Close()
	noKeys(t)
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.URL+"/v1/credentials")
	t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token)
	seen := &signers{}
	o := options(ec2)
	o.HTTPClient = seen
	_, err := open(t, o).Get(t.Context(), volX)
	wantErr(t, err, backend.ErrNotFound)
	if got := fmt.Sprint(seen.who); got != "[PODKEY podsession]" {
		t.Errorf("EC2 saw %s", got)
	}
	if err := os.WriteFile(token, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = open(t, o).Get(t.Context(), volX)
	wantErr(t, err, backend.ErrUnavailable)
	if len(seen.who) != 1 || strings.Contains(err.Error(), "another") {
		t.Errorf("%v, EC2 saw %s", err, seen.who)
	}
	if err := os.WriteFile(token, []byte("code"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = open(t, o).Get(t.Context(), volX)
	wantErr(t, err, backend.ErrUnavailable)
	if len(seen.who) != 1 || errors.Is(err, backend.ErrInvalid) || !strings.Contains(err.Error(), "the agent's reason") || !strings.Contains(err.Error(), "credentials") {
		t.Errorf("%v, EC2 saw %s", err, seen.who)
	}
}

// hosts records which hosts a client wants to reach, and reaches none.
type hosts struct {
	mu   sync.Mutex
	seen []string
}

func (h *hosts) Do(r *http.Request) (*http.Response, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = append(h.seen, r.URL.Scheme+"://"+r.URL.Host)
	return nil, errors.New("not sent")
}

// TestEndpoints: which host is called with which settings. Nothing is sent.
func TestEndpoints(t *testing.T) {
	for _, c := range []struct {
		env      map[string]string
		region   string
		endpoint string
		want     string
	}{
		{nil, "eu-west-1", "", "https://ec2.eu-west-1.amazonaws.com"},
		{map[string]string{"AWS_USE_FIPS_ENDPOINT": "true"}, "us-east-1", "", "https://ec2-fips.us-east-1.amazonaws.com"},
		{map[string]string{"AWS_USE_FIPS_ENDPOINT": "true"}, "us-gov-west-1", "", "https://ec2.us-gov-west-1.amazonaws.com"}, // all endpoints of that partition are FIPS endpoints
		{map[string]string{"AWS_USE_DUALSTACK_ENDPOINT": "true"}, "us-east-1", "", "https://ec2.us-east-1.api.aws"},
		{nil, "cn-north-1", "", "https://ec2.cn-north-1.amazonaws.com.cn"},
		{map[string]string{"AWS_ENDPOINT_URL_EC2": "https://vpce-1.example"}, "us-east-1", "", "https://vpce-1.example"},
		{map[string]string{"AWS_ENDPOINT_URL": "https://vpce-2.example"}, "us-east-1", "", "https://vpce-2.example"},
		{map[string]string{"AWS_ENDPOINT_URL_EC2": "https://vpce-1.example"}, "us-east-1", "https://flag.example", "https://flag.example"},
	} {
		t.Run(c.want, func(t *testing.T) {
			t.Setenv("AWS_ENDPOINT_URL", "")
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			h := &hosts{}
			b := open(t, Options{Region: c.region, Endpoint: c.endpoint, Cluster: "test", HTTPClient: h, Timing: quick, MaxAttempts: 1})
			_, err := b.Get(t.Context(), volX)
			wantErr(t, err, backend.ErrUnavailable)
			if got := fmt.Sprint(h.seen); got != "["+c.want+"]" {
				t.Errorf("asked %s", got)
			}
		})
	}
}

// TestCABundle: with AWS_CA_BUNDLE, a server whose certificate comes from a private authority is
// trusted; without it, it is not.
func TestCABundle(t *testing.T) {
	ec2 := newEC2(t, ec2test.Options{}, false)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, err := ec2.Do(r)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // of clients that do not trust it
	srv.StartTLS()
	defer srv.Close()
	o := options(ec2)
	o.Endpoint = srv.URL
	_, err := open(t, o).Get(t.Context(), volX)
	wantErr(t, err, backend.ErrUnavailable)
	if !strings.Contains(err.Error(), "certificate") {
		t.Errorf("%v", err)
	}
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CA_BUNDLE", bundle)
	_, err = open(t, o).Get(t.Context(), volX)
	wantErr(t, err, backend.ErrNotFound)
}

const envProxied = "SEALVOL_TEST_PROXIED"

// TestProxies: EC2 is called through the proxy, and so is the metadata service unless NO_PROXY
// names it. net/http reads the environment once per process.
func TestProxies(t *testing.T) {
	if os.Getenv(envProxied) != "" {
		proxied(t)
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ noProxy, want string }{
		{"", "ec2=http://127.0.0.1:3128 metadata=http://127.0.0.1:3129"},
		{"10.0.0.0/8,169.254.169.254", "ec2=http://127.0.0.1:3128 metadata=direct"},
		{"169.254.169.254,.amazonaws.com", "ec2=direct metadata=direct"},
	} {
		cmd := exec.Command(exe, "-test.run=^TestProxies$", "-test.v")
		cmd.Env = append(os.Environ(), envProxied+"=1", "HTTPS_PROXY=http://127.0.0.1:3128", "HTTP_PROXY=http://127.0.0.1:3129", "NO_PROXY="+c.noProxy, "https_proxy=", "http_proxy=", "no_proxy=")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), c.want+"\n") {
			t.Errorf("NO_PROXY=%s: %v, want %s\n%s", c.noProxy, err, c.want, out)
		}
	}
}

func proxied(t *testing.T) {
	cfg, err := loadConfig(context.Background(), Options{Region: "eu-west-1"})
	if err != nil {
		t.Fatal(err)
	}
	client, ok := cfg.HTTPClient.(awsclient.PlainBody).Client.(*awshttp.BuildableClient)
	if !ok {
		t.Fatalf("%T", cfg.HTTPClient)
	}
	by := func(link string) string {
		r, err := http.NewRequest(http.MethodGet, link, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		u, err := client.GetTransport().Proxy(r)
		if err != nil {
			t.Fatal(err)
		}
		if u == nil {
			return "direct"
		}
		return u.String()
	}
	fmt.Printf("ec2=%s metadata=%s\n", by("https://ec2.eu-west-1.amazonaws.com/"), by("http://169.254.169.254/latest/"))
}
