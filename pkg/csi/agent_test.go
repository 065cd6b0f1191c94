package csi_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/sealvol/sealvol/pkg/csi"
)

// agent records the calls that it gets.
type agent struct {
	mu   sync.Mutex
	err  error    // guarded by mu; the result of Anchor
	told []string // guarded by mu
}

func (a *agent) tell(what string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.told = append(a.told, what)
	return a.err
}

// Anchor implements csi.Agent.
func (a *agent) Anchor(context.Context, string) (string, error) { return "", a.tell("anchor") }

// Staged implements csi.Agent.
func (a *agent) Staged(string) { _ = a.tell("staged") }

// Remounted implements csi.Agent.
func (a *agent) Remounted(string) { _ = a.tell("remounted") }

// Unstaging implements csi.Agent.
func (a *agent) Unstaging(context.Context, string) { _ = a.tell("unstaging") }

// Unstaged implements csi.Agent.
func (a *agent) Unstaged(string) { _ = a.tell("unstaged") }

func (a *agent) want(t *testing.T, err error, told ...string) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.Equal(a.told, told) {
		t.Errorf("the agent got the calls %v, want %v", a.told, told)
	}
	a.err, a.told = err, nil
}

// TestAgent: no volume is mounted whose anchor is unknown; the agent learns in time of every mount
// and unmount.
func TestAgent(t *testing.T) {
	a := &agent{err: errors.New("the API server does not answer")}
	r := newRigWith(t, csi.Options{SelfAttach: true, Agent: a})
	v := r.create("pvc-1", writer)
	wantCode(t, v.stage(), codes.Unavailable)
	if r.attached(v.id) {
		t.Error("attached, but not staged")
	}
	a.want(t, nil, "anchor")
	wantCode(t, v.stage(), codes.OK)
	a.want(t, nil, "anchor", "staged")
	wantCode(t, v.publishTo("a"), codes.OK)
	a.want(t, nil)
	// The mount server dies: the publish that mounts the volume again also asks for the anchor.
	kill := func() {
		h, err := r.mounter.Health(r.ctx(), v.id)
		if err != nil {
			t.Error(err)
			return
		}
		if err := unix.Kill(h.PID, unix.SIGKILL); err != nil {
			t.Error(err)
		}
		for h.Alive && err == nil {
			h, err = r.mounter.Health(r.ctx(), v.id)
		}
	}
	kill()
	a.want(t, errors.New("the API server does not answer"))
	wantCode(t, v.publishTo("a"), codes.Unavailable)
	a.want(t, nil, "anchor")
	wantCode(t, v.publishTo("a"), codes.OK)
	a.want(t, nil, "anchor", "remounted")
	// So does a publish that had seen the server alive a moment before.
	r.setHook(func(step string) {
		if step == "ensure staged" {
			kill()
		}
	})
	wantCode(t, v.publishTo("a"), codes.OK)
	r.setHook(nil)
	a.want(t, nil, "anchor", "remounted")
	wantCode(t, v.unpublish("a"), codes.OK)
	wantCode(t, v.unstage(), codes.OK)
	a.want(t, nil, "unstaging", "unstaged")
}
