package versitygw

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
)

// statement is one of a policy document.
type statement struct {
	Sid       string `json:",omitempty"`
	Effect    string
	Principal any `json:",omitempty"`
	Action    []string
	Resource  string
	Condition any `json:",omitempty"`
}

type document struct {
	Version   string
	Statement []statement
}

// leastPolicy is docs/iam/chunkstore.json as a policy of the bucket for the guest, without one
// action.
func leastPolicy(t *testing.T, without string) string {
	t.Helper()
	raw, err := os.ReadFile("../../../docs/iam/chunkstore.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc document
	if err := json.Unmarshal([]byte(strings.NewReplacer("BUCKET", bucket, "PREFIX", "store").Replace(string(raw))), &doc); err != nil {
		t.Fatal(err)
	}
	var left []statement
	for _, s := range doc.Statement {
		s.Principal = map[string]string{"AWS": guest}
		s.Action = slices.DeleteFunc(s.Action, func(a string) bool { return a == without })
		if len(s.Action) > 0 {
			left = append(left, s)
		}
	}
	doc.Statement = left
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// asGuest opens a store with the guest's credentials.
func asGuest(t *testing.T, url, prefix string, w chunkstore.S3RequestOptions) *chunkstore.S3 {
	t.Helper()
	s, err := chunkstore.OpenS3(t.Context(), chunkstore.S3Options{Bucket: bucket, Prefix: prefix, Region: "us-east-1", Endpoint: url, PathStyle: true, Attempts: 2, S3RequestOptions: w,
		Credentials: credentials.NewStaticCredentialsProvider(guest, guestSecret, "")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// lockedBucket makes a bucket whose objects can be locked.
func lockedBucket(t *testing.T, url string) *s3.Client {
	t.Helper()
	c := owner(url)
	if _, err := c.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String(bucket), ObjectLockEnabledForBucket: aws.Bool(true)}); err != nil {
		t.Fatal(err)
	}
	return c
}

// policyBucket is a bucket whose policy lets the guest do what a store does.
type policyBucket struct {
	*testing.T
	url   string
	owner *s3.Client
	round int
}

// allow sets the policy, without one action.
func (b *policyBucket) allow(without string) {
	b.Helper()
	if _, err := b.owner.PutBucketPolicy(b.Context(), &s3.PutBucketPolicyInput{Bucket: aws.String(bucket), Policy: aws.String(leastPolicy(b.T, without))}); err != nil {
		b.Fatal(err)
	}
}

// fails lists what does not work.
func (b *policyBucket) fails() (list []string) {
	b.Helper()
	b.round++
	plain := asGuest(b.T, b.url, "store", chunkstore.S3RequestOptions{})
	tagged := asGuest(b.T, b.url, "store", chunkstore.S3RequestOptions{Tags: map[string]string{"a": "b"}})
	locked := asGuest(b.T, b.url, "store", chunkstore.S3RequestOptions{Lock: "GOVERNANCE", RetainDays: 1})
	key := func(s string) string { return fmt.Sprint(s, b.round) }
	// What is to be read and deleted is put by the owner, so that no failure follows from another.
	for _, k := range []string{"read", "gone", "again"} {
		if _, err := b.owner.PutObject(b.Context(), &s3.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String("store/" + key(k)), Body: strings.NewReader("x"), ChecksumAlgorithm: types.ChecksumAlgorithmCrc32c}); err != nil {
			b.Fatal(err)
		}
	}
	put := func(s *chunkstore.S3, name string) func() error {
		return func() error { _, err := s.Put(b.Context(), key(name), []byte("x")); return err }
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"put", put(plain, "put")},
		{"replace", func() error { return plain.Replace(b.Context(), key("replace"), []byte("x")) }},
		{"get", func() error { _, err := plain.Get(b.Context(), key("read"), nil, 10); return err }},
		{"stat", func() error { _, err := plain.Stat(b.Context(), key("read")); return err }},
		{"delete", func() error { return plain.Delete(b.Context(), key("gone")) }},
		{"list", func() error {
			for _, err := range plain.List(b.Context(), "", "") {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"put tagged", put(tagged, "tagged")},
		{"put locked", put(locked, "locked")},
		{"lock what is there", put(locked, "again")},
	} {
		if err := step.do(); err != nil {
			if !strings.Contains(err.Error(), "AccessDenied") && !strings.Contains(err.Error(), "Forbidden") {
				b.Errorf("%s: %v", step.name, err)
			}
			list = append(list, step.name)
		}
	}
	return list
}

// TestLeastPolicy: docs/iam/chunkstore.json allows all that a store does, below its prefix
// alone; without any one of its actions, just that does not work which the action is for.
func TestLeastPolicy(t *testing.T) {
	url := startGateway(t, nil)
	b := &policyBucket{T: t, url: url, owner: lockedBucket(t, url)}
	b.allow("")
	if list := b.fails(); len(list) > 0 {
		t.Fatalf("with the policy as it is: %v", list)
	}
	want := map[string][]string{
		"s3:GetObject":          {"get", "stat"},
		"s3:PutObject":          {"put", "replace", "put tagged", "put locked", "lock what is there"},
		"s3:DeleteObject":       {"delete"},
		"s3:ListBucket":         {"list"},
		"s3:PutObjectTagging":   {"put tagged"},
		"s3:GetObjectRetention": {"lock what is there"},
		"s3:PutObjectRetention": {"put locked", "lock what is there"},
	}
	for _, action := range slices.Sorted(maps.Keys(want)) {
		b.allow(action)
		if list := b.fails(); !slices.Equal(list, want[action]) {
			t.Errorf("without %s: %v, want %v", action, list, want[action])
		}
	}
	var doc document
	if err := json.Unmarshal([]byte(leastPolicy(t, "")), &doc); err != nil {
		t.Fatal(err)
	}
	for _, s := range doc.Statement {
		for _, a := range s.Action {
			if want[a] == nil {
				t.Errorf("nobody knows what %s is for", a)
			}
		}
	}
	b.allow("")
	b.refuses()
}

// refuses wants what the policy does not allow to fail: anything beside the prefix, and
// deletion of what is locked.
func (b *policyBucket) refuses() {
	b.Helper()
	elsewhere := asGuest(b.T, b.url, "other", chunkstore.S3RequestOptions{})
	if _, err := elsewhere.Put(b.Context(), "x", []byte("x")); err == nil {
		b.Error("a put beside the prefix")
	}
	for _, err := range elsewhere.List(b.Context(), "", "") {
		if err == nil {
			b.Error("listed what is beside the prefix")
		}
	}
	// Object lock holds against the same rights.
	s := asGuest(b.T, b.url, "store", chunkstore.S3RequestOptions{Lock: "COMPLIANCE", RetainDays: 1})
	if _, err := s.Put(b.Context(), "kept", []byte("x")); err != nil {
		b.Fatal(err)
	}
	if err := s.Delete(b.Context(), "kept"); !errors.Is(err, chunkstore.ErrLocked) {
		b.Errorf("delete: %v", err)
	}
}

// TestObjectLock: what the store stored locked is locked at the gateway, cannot be deleted by
// anybody, and the store says so, whether it knows of locks or not; a Put that finds a chunk renews
// its date; what lives in such a bucket can be used as ever.
func TestObjectLock(t *testing.T) {
	url := startGateway(t, nil)
	c := lockedBucket(t, url)
	open := func(params string) chunkstore.Store {
		t.Helper()
		s, err := chunkstore.Open(t.Context(), fmt.Sprintf("s3://%s/store?region=us-east-1&endpoint=%s%s", bucket, url, params), false)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	until := func(key string) (string, time.Duration) {
		t.Helper()
		out, err := c.GetObjectRetention(t.Context(), &s3.GetObjectRetentionInput{Bucket: aws.String(bucket), Key: aws.String("store/" + key)})
		if err != nil {
			t.Fatal(err)
		}
		return string(out.Retention.Mode), time.Until(*out.Retention.RetainUntilDate)
	}
	const day = 24 * time.Hour
	plain, short, long := open(""), open("&object-lock=COMPLIANCE&retain-days=1"), open("&object-lock=GOVERNANCE&retain-days=30")
	if _, err := short.Put(t.Context(), "x", []byte("data")); err != nil {
		t.Fatal(err)
	}
	if mode, left := until("x"); mode != "COMPLIANCE" || left < day || left > 2*day {
		t.Fatal(mode, left)
	}
	if created, err := long.Put(t.Context(), "x", []byte("data")); err != nil || created {
		t.Fatal(created, err)
	}
	if mode, left := until("x"); mode != "COMPLIANCE" || left < 30*day || left > 31*day {
		t.Fatalf("renewed to %s %v", mode, left)
	}
	if created, err := short.Put(t.Context(), "x", []byte("data")); err != nil || created {
		t.Fatal(created, err)
	}
	if _, left := until("x"); left < 30*day {
		t.Fatalf("shortened to %v", left)
	}
	for name, s := range map[string]chunkstore.Store{"knows": long, "does not know": plain} {
		if err := s.Delete(t.Context(), "x"); !errors.Is(err, chunkstore.ErrLocked) {
			t.Errorf("one that %s of locks: %v", name, err)
		}
		if b, err := s.Get(t.Context(), "x", nil, 10); err != nil || string(b) != "data" {
			t.Errorf("%q, %v", b, err)
		}
	}
	if _, err := plain.Put(t.Context(), "free", []byte("data")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(long.Delete(t.Context(), "free"), long.Delete(t.Context(), "none")); err != nil {
		t.Fatal(err)
	}
}

// TestRequestOptionsKept checks the options that the gateway stores with an object.
func TestRequestOptionsKept(t *testing.T) {
	url := start(t, nil)
	s, err := chunkstore.Open(t.Context(), fmt.Sprintf("s3://%s?region=us-east-1&endpoint=%s&storage-class=STANDARD&request-payer=requester&tags=keep=a%%20year,b=c", bucket, url), false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "x", []byte("data")); err != nil {
		t.Fatal(err)
	}
	out, err := owner(url).GetObjectTagging(t.Context(), &s3.GetObjectTaggingInput{Bucket: aws.String(bucket), Key: aws.String("x")})
	if err != nil {
		t.Fatal(err)
	}
	tags := map[string]string{}
	for _, x := range out.TagSet {
		tags[*x.Key] = *x.Value
	}
	if !maps.Equal(tags, map[string]string{"keep": "a year", "b": "c"}) {
		t.Error(tags)
	}
}

// TestWebIdentity: a pod that has nothing but a token, as IRSA gives it, uses its store with what
// STS gives for that. The gateway knows its users by their keys alone, so that there is no session
// token; chunkstore tests that.
func TestWebIdentity(t *testing.T) {
	url := start(t, nil)
	if _, err := owner(url).PutBucketPolicy(t.Context(), &s3.PutBucketPolicyInput{Bucket: aws.String(bucket), Policy: aws.String(leastPolicy(t, ""))}); err != nil {
		t.Fatal(err)
	}
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("Action") != "AssumeRoleWithWebIdentity" || r.FormValue("WebIdentityToken") != "pod's token" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		_, _ = fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey>
<SessionToken></SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, guest, guestSecret, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	defer sts.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("pod's token"), 0o600); err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/chunks", "AWS_WEB_IDENTITY_TOKEN_FILE": token, "AWS_ENDPOINT_URL_STS": sts.URL} {
		t.Setenv(k, v)
	}
	s, err := chunkstore.Open(t.Context(), fmt.Sprintf("s3://%s/store?region=us-east-1&endpoint=%s", bucket, url), false)
	if err != nil {
		t.Fatal(err)
	}
	if created, err := s.Put(t.Context(), "x", []byte("data")); err != nil || !created {
		t.Fatal(created, err)
	}
	if b, err := s.Get(t.Context(), "x", nil, 10); err != nil || string(b) != "data" {
		t.Fatalf("%q, %v", b, err)
	}
	if err := s.Delete(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
}
