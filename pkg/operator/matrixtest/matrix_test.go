package matrixtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// These are the rules that are not policies of the chart.
const (
	rbac        = "RBAC"
	nodes       = "node authorizer" // Kubernetes' authorizer for kubelets
	restriction = "NodeRestriction" // an admission plugin of Kubernetes
	validation  = "validation"      // of the CRDs VolumeKey and SealedVolume
)

func isPolicy(rule string) bool {
	return !slices.Contains([]string{rbac, nodes, restriction, validation}, rule)
}

// attempt is a request that must be refused.
type attempt struct {
	who, what string
	rule      string // the name of a policy without the prefix of the release, or one of the above
	says      string // part of the error message
	try       request
	instead   string  // describes control
	control   request // a similar request that is allowed
}

// backends returns the chart values of each backend and the attempts with it.
func backends() map[string]struct {
	values   []string
	attempts []attempt
} {
	return map[string]struct {
		values   []string
		attempts []attempt
	}{
		"local": {nil, slices.Concat(tenants(), kubelets(), places(), volumesOfNodes(), claimsOfNodes(), contents(nodeB), capacities(), reports(), nodesRights(), resizer(), resizes(), events(nodeB), operatorRights(), mounters(), administrators())},
		"ebs":   {[]string{"backend=ebs", "ebs.clusterID=prod-1"}, slices.Concat(tenants(), kubelets(), volumesOfController(), claimsOfController(), contents(controller), attachments(), reports(), nodesRightsEBS(), resizes(), events(controller), operatorRights(), mounters(), administrators())},
	}
}

// TestMatrix makes all attempts, with both backends.
func TestMatrix(t *testing.T) {
	for backend, b := range backends() {
		t.Run(backend, func(t *testing.T) {
			w := newWorld(t, backend, b.values...)
			refused, seen := map[string]int{}, map[string]int{}
			for _, a := range b.attempts {
				t.Run(a.who+"/"+a.what, func(t *testing.T) {
					if err := eventually(t.Context(), func() error { return w.isRefused(t.Context(), a) }); err != nil {
						t.Error(err)
					}
					refused[a.rule]++
					if a.control.verb == "" && (a.rule == rbac || a.rule == nodes) && a.try.who == "" {
						// The administrator may make this request, so it is valid.
						a.instead, a.control = "the administrator may make the request", a.try.by(admin)
					}
					if a.control.verb == "" {
						return
					}
					if err := eventually(t.Context(), func() error { return w.isAllowed(t.Context(), a) }); err != nil {
						t.Errorf("%s: %v", a.instead, err)
					}
					seen[a.rule]++
				})
			}
			for _, name := range policies(t, b.values) {
				rule := strings.TrimPrefix(name, "sealvol-")
				if refused[rule] == 0 || seen[rule] == 0 {
					t.Errorf("policy %s: %d attempts, %d controls", name, refused[rule], seen[rule])
				}
			}
			t.Logf("%d attempts", len(b.attempts))
			if len(b.attempts) < 50 {
				t.Error("too few attempts")
			}
		})
	}
}

// isRefused checks that an attempt is refused by its rule.
func (w *world) isRefused(ctx context.Context, a attempt) error {
	err := w.send(ctx, a.who, a.try)
	if err == nil {
		return fmt.Errorf("the request was allowed, but %s should refuse it", a.rule)
	}
	var by bool
	text := err.Error()
	switch a.rule {
	case rbac:
		by = apierrors.IsForbidden(err) && strings.Contains(text, " cannot ") && !strings.Contains(text, "system:node:")
	case nodes:
		by = apierrors.IsForbidden(err) && strings.Contains(text, `User "system:node:`) && strings.Contains(text, " cannot ")
	case restriction:
		by = apierrors.IsForbidden(err) && !strings.Contains(text, " cannot ") && strings.Contains(text, "node")
	case validation:
		by = apierrors.IsInvalid(err)
	default:
		by = apierrors.IsForbidden(err) && strings.Contains(text, "ValidatingAdmissionPolicy 'sealvol-"+a.rule+"' ")
	}
	if !by || !strings.Contains(text, a.says) {
		return fmt.Errorf("want a refusal by %s that says %q: %w", a.rule, a.says, err)
	}
	return nil
}

// isAllowed checks that the control of an attempt is allowed, and that the policy has evaluated it.
func (w *world) isAllowed(ctx context.Context, a attempt) error {
	w.warned()
	if err := w.send(ctx, a.who, a.control); err != nil {
		return err
	}
	saw := w.warned()
	if isPolicy(a.rule) && !strings.Contains(saw, "'seen-sealvol-"+a.rule+"'") {
		return fmt.Errorf("policy %s did not evaluate the control: %q", a.rule, saw)
	}
	return nil
}

// get, list, create, update, patch and del return requests.
func get(what string) request  { return request{verb: "get", what: what} }
func list(what string) request { return request{verb: "list", what: what} }
func create(what, from, body string) request {
	return request{verb: "create", what: what, from: from, body: body}
}
func update(what, body string) request { return request{verb: "update", what: what, body: body} }
func patch(what, body string) request  { return request{verb: "patch", what: what, body: body} }
func del(what string) request          { return request{verb: "delete", what: what} }

// by makes another user send the request.
func (r request) by(who string) request { r.who = who; return r }

// with changes the object that is created.
func (r request) with(change string) request { r.more = change; return r }
