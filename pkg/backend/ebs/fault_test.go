package ebs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

// life makes all calls for a volume and repeats each until it succeeds, like Kubernetes. restart,
// if not nil, returns a new backend after a failure.
type life struct {
	t       *testing.T
	b       *Backend
	restart func() *Backend
	fails   int
}

func (l *life) do(what string, step func(b *Backend) error) {
	for {
		err := step(l.b)
		if err == nil {
			return
		}
		if l.fails++; l.fails > 200 {
			l.t.Fatalf("%s never succeeds: %v", what, err)
		}
		if l.restart != nil {
			l.b = l.restart()
		}
	}
}

func (l *life) run(ctx context.Context) {
	var v, copied backend.Volume
	var snap backend.Snapshot
	sp := spec("a")
	sp.Class = map[string]string{"type": "gp3"}
	l.do("create", func(b *Backend) (err error) { v, err = b.Create(ctx, sp); return err })
	l.do("attach", func(b *Backend) error { _, err := b.Attach(ctx, v.ID, nodeA, false); return err })
	l.do("expand", func(b *Backend) error { _, err := b.Expand(ctx, v.ID, 12*gib, 0); return err })
	l.do("modify", func(b *Backend) error { return b.Modify(ctx, v.ID, map[string]string{"iops": "4000"}) })
	l.do("snapshot", func(b *Backend) (err error) {
		snap, err = b.CreateSnapshot(ctx, backend.SnapshotSpec{Name: "s", Volume: v.ID})
		if err == nil && snap.State != backend.SnapshotReady {
			err = errNotYet
		}
		return err
	})
	l.do("restore", func(b *Backend) (err error) {
		copied, err = b.Create(ctx, backend.Spec{Name: "copy", Source: &backend.Source{Snapshot: snap.ID}})
		return err
	})
	l.do("detach", func(b *Backend) error { return b.Detach(ctx, v.ID, nodeA) })
	l.do("move", func(b *Backend) error { _, err := b.Attach(ctx, v.ID, nodeB, true); return err })
	l.do("list", func(b *Backend) error {
		all, _, err := b.List(ctx, "", 0)
		if err == nil && (len(all) != 2 || all[0].Attachment == nil || all[0].Attachment.Node != nodeB || !all[0].Attachment.ReadOnly || all[0].SizeBytes != 12*gib || all[1].ID != copied.ID) {
			l.t.Errorf("listed %+v", all)
		}
		return err
	})
	l.do("detach again", func(b *Backend) error { return b.Detach(ctx, v.ID, "") })
	l.do("delete snapshot", func(b *Backend) error { return b.DeleteSnapshot(ctx, snap.ID) })
	for _, id := range []string{v.ID, copied.ID} {
		l.do("delete", func(b *Backend) error { return b.Delete(ctx, id) })
	}
}

// lifeIn runs a life in which the n-th call to EC2 has a fault, and returns how many calls there
// were.
func lifeIn(t *testing.T, n int, f ec2test.Fault, restart bool) int {
	delays := slow
	if f.Lost { // describes do not show the change yet
		delays.Lag = quick.Settle / 4
	}
	s := newEC2(t, ec2test.Options{Delays: delays}, false)
	var mu sync.Mutex
	count := 0
	s.SetFault(func(ec2test.Call) ec2test.Fault {
		mu.Lock()
		defer mu.Unlock()
		if count++; count == n {
			return f
		}
		return ec2test.Fault{}
	})
	o := options(s)
	o.HTTPClient = &http.Client{Timeout: quick.PollMost * 10}
	l := &life{t: t, b: open(t, o)}
	if restart {
		l.restart = func() *Backend { return open(t, o) }
	}
	l.run(t.Context())
	for _, v := range s.Volumes() {
		if v.State != "deleting" {
			t.Errorf("call %d: left behind: %+v", n, v)
		}
	}
	if left := s.Snapshots(); len(left) > 0 {
		t.Errorf("call %d: snapshots left behind: %v", n, left)
	}
	return count
}

// TestFaults makes each call to EC2 fail, time out, and succeed without an answer, with a driver
// that continues and with one that restarts.
func TestFaults(t *testing.T) {
	total := lifeIn(t, 0, ec2test.Fault{}, false)
	t.Logf("%d calls in a life", total)
	for name, f := range map[string]ec2test.Fault{
		"fails":     {Code: "InternalError", Status: http.StatusInternalServerError},
		"throttled": {Code: "RequestLimitExceeded", Status: http.StatusServiceUnavailable},
		"dropped":   {Drop: true},
		"lost":      {Lost: true},
		"hangs":     {Lost: true, Hang: true},
	} {
		for _, restart := range []bool{false, true} {
			if restart && (testing.Short() || !f.Lost || f.Hang) {
				continue
			}
			t.Run(fmt.Sprint(name, " restart=", restart), func(t *testing.T) {
				t.Parallel()
				eachCall(t, total+5, func(t *testing.T, n int) { lifeIn(t, n, f, restart) })
			})
		}
	}
}

// eachCall runs a test for each number of a call, many concurrently, because they mostly wait.
func eachCall(t *testing.T, most int, run func(t *testing.T, n int)) {
	var g errgroup.Group
	g.SetLimit(24)
	for n := 1; n <= most; n++ {
		if testing.Short() && n%4 != 0 {
			continue
		}
		g.Go(func() error {
			t.Run(fmt.Sprint(n), func(t *testing.T) { run(t, n) })
			return nil
		})
	}
	_ = g.Wait()
}

// TestNothingElse: without an endpoint, a client in these tests reaches no server, and only asks
// for loopback names and addresses.
func TestNothingElse(t *testing.T) {
	var mu sync.Mutex
	var dialled []string
	tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		mu.Lock()
		dialled = append(dialled, addr)
		mu.Unlock()
		if host, _, _ := net.SplitHostPort(addr); !net.ParseIP(host).IsLoopback() {
			return nil, errors.New("not loopback")
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	b := open(t, Options{Cluster: "test", HTTPClient: &http.Client{Transport: tr}, Timing: quick, MaxAttempts: 1})
	_, err := b.Create(t.Context(), spec("a"))
	wantErr(t, err, backend.ErrUnavailable)
	_, err = b.Info(t.Context())
	wantErr(t, err, backend.ErrUnavailable)
	if len(dialled) == 0 {
		t.Fatal("the test did not see the connections")
	}
	for _, a := range dialled {
		if "http://"+a != ec2test.NoEndpoint {
			t.Errorf("connected to %s", a)
		}
	}
}

// TestPolicies compares docs/iam with the calls in the code.
func TestPolicies(t *testing.T) {
	called := map[string]bool{}
	for m := range reflect.TypeFor[api]().Methods() {
		called["ec2:"+m.Name] = true
	}
	controller, node := policy(t, "controller.json"), policy(t, "node.json")
	for a := range called {
		// CreateTags is always needed, because tags at creation need it, too
		if !slices.Contains(controller, a) && !slices.Contains(node, a) {
			t.Errorf("%s is allowed to nobody", a)
		}
	}
	for _, a := range slices.Concat(controller, node) {
		if !called[a] {
			t.Errorf("%s is allowed and never called", a)
		}
	}
	for _, a := range node {
		if !strings.HasPrefix(a, "ec2:Describe") && a != "ec2:CreateTags" { // of two keys: see TestPoliciesAllow
			t.Errorf("a node may %s", a)
		}
	}
	for _, a := range []string{"ec2:CreateVolume", "ec2:AttachVolume", "ec2:DeleteVolume"} {
		if !slices.Contains(controller, a) {
			t.Errorf("the controller may not %s", a)
		}
	}
}

// TestKMSPolicy: the policy allows what EC2 does with a key on behalf of a user who creates and
// attaches encrypted volumes, and no more; it must not allow giving access to others.
// https://docs.aws.amazon.com/ebs/latest/userguide/ebs-encryption-requirements.html#ebs-encryption-permissions
func TestKMSPolicy(t *testing.T) {
	list := statements(t, "kms.json")
	var got []string
	for _, s := range list {
		if s.Resource != "KEY_ARN" {
			t.Errorf("%s: of %v", s.Sid, s.Resource)
		}
		for _, a := range s.Action {
			got = append(got, a)
			grants := s.Condition["Bool"]["kms:GrantIsForAWSResource"] == "true"
			if (a == "kms:CreateGrant") != grants || grants && len(s.Action) > 1 {
				t.Errorf("%s: %s", s.Sid, a)
			}
		}
	}
	slices.Sort(got)
	want := []string{"kms:CreateGrant", "kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptFrom", "kms:ReEncryptTo"}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// policy lists the actions of a document that concerns only EC2.
func policy(t *testing.T, name string) (actions []string) {
	t.Helper()
	for _, s := range statements(t, name) {
		for _, a := range s.Action {
			if !strings.HasPrefix(a, "ec2:Describe") && s.Condition == nil && s.Sid != "Attach" {
				t.Errorf("%s: %s without a condition", name, a)
			}
			if strings.HasPrefix(a, "ec2:") {
				actions = append(actions, a)
			} else {
				t.Errorf("%s: %s", name, a)
			}
		}
	}
	return actions
}

// statement is a statement of an IAM policy document.
type statement struct {
	Sid, Effect string
	Action      []string
	Resource    any
	Condition   map[string]map[string]any
}

func statements(t *testing.T, name string) []statement {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("../../../docs/iam", name))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Version   string
		Statement []statement
	}
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, s := range doc.Statement {
		if s.Effect != "Allow" || len(s.Action) == 0 || s.Resource == nil || strings.Contains(strings.Join(s.Action, ""), "*") {
			t.Errorf("%s: %s", name, s.Sid)
		}
	}
	if doc.Version != "2012-10-17" || len(doc.Statement) == 0 {
		t.Errorf("%s: %+v", name, doc)
	}
	return doc.Statement
}
