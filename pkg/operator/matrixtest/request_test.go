package matrixtest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

// request is a request to the API server. In what and body, ${x} is expanded (world.names).
type request struct {
	who  string // the sender, if it is not the user of the attempt
	verb string
	what string // "resource name", "resource namespace/name" or "resource/subresource …"
	// body is YAML. For patch and update, it is a JSON merge patch. For create, it is the object,
	// or a merge patch of the template that from names.
	body string
	from string
	more string // another merge patch after body
}

// groups are the API groups of resources that are not in the core group.
var groups = map[string]schema.GroupVersion{
	"volumeattachments":                 {Group: "storage.k8s.io", Version: "v1"},
	"csistoragecapacities":              {Group: "storage.k8s.io", Version: "v1"},
	"storageclasses":                    {Group: "storage.k8s.io", Version: "v1"},
	"csinodes":                          {Group: "storage.k8s.io", Version: "v1"},
	"csidrivers":                        {Group: "storage.k8s.io", Version: "v1"},
	"volumesnapshotcontents":            {Group: "snapshot.storage.k8s.io", Version: "v1"},
	"volumesnapshots":                   {Group: "snapshot.storage.k8s.io", Version: "v1"},
	"sealedvolumes":                     {Group: "sealvol.dev", Version: "v1alpha1"},
	"volumekeys":                        {Group: "sealvol.dev", Version: "v1alpha1"},
	"leases":                            {Group: "coordination.k8s.io", Version: "v1"},
	"daemonsets":                        {Group: "apps", Version: "v1"},
	"rolebindings":                      {Group: "rbac.authorization.k8s.io", Version: "v1"},
	"clusterroles":                      {Group: "rbac.authorization.k8s.io", Version: "v1"},
	"clusterrolebindings":               {Group: "rbac.authorization.k8s.io", Version: "v1"},
	"validatingadmissionpolicies":       {Group: "admissionregistration.k8s.io", Version: "v1"},
	"validatingadmissionpolicybindings": {Group: "admissionregistration.k8s.io", Version: "v1"},
}

// newEvents stands for the resource events of the group events.k8s.io.
const newEvents = "events.k8s.io"

// target is the object of a request.
type target struct {
	gvr                          schema.GroupVersionResource
	namespace, name, subresource string
}

func parseTarget(what string) target {
	resource, name, _ := strings.Cut(what, " ")
	resource, sub, _ := strings.Cut(resource, "/")
	t := target{subresource: sub}
	gv, ok := groups[resource]
	switch {
	case resource == newEvents:
		t.gvr = schema.GroupVersionResource{Group: newEvents, Version: "v1", Resource: "events"}
	case ok:
		t.gvr = gv.WithResource(resource)
	default:
		t.gvr = schema.GroupVersionResource{Version: "v1", Resource: resource}
	}
	if ns, n, ok := strings.Cut(name, "/"); ok {
		t.namespace, t.name = ns, n
	} else {
		t.name = name
	}
	return t
}

func (t target) in(c dynamic.Interface) dynamic.ResourceInterface {
	if t.namespace != "" {
		return c.Resource(t.gvr).Namespace(t.namespace)
	}
	return c.Resource(t.gvr)
}

func (t target) subresources() []string {
	if t.subresource == "" {
		return nil
	}
	return []string{t.subresource}
}

// send sends a request as a user. It is a dry run, which is authorized and admitted like any other
// request, but not stored.
func (w *world) send(ctx context.Context, who string, r request) error {
	if r.who != "" {
		who = r.who
	}
	c, ok := w.clients[who]
	if !ok {
		return fmt.Errorf("unknown user %q", who)
	}
	t := parseTarget(w.expand(r.what))
	api, dry := t.in(c), []string{metav1.DryRunAll}
	var err error
	switch r.verb {
	case "get":
		_, err = api.Get(ctx, t.name, metav1.GetOptions{})
	case "list":
		_, err = api.List(ctx, metav1.ListOptions{})
	case "delete":
		err = api.Delete(ctx, t.name, metav1.DeleteOptions{DryRun: dry})
	case "patch":
		var b []byte
		if b, err = yaml.YAMLToJSON([]byte(w.expand(r.body))); err == nil {
			_, err = api.Patch(ctx, t.name, types.MergePatchType, b, metav1.PatchOptions{DryRun: dry}, t.subresources()...)
		}
	case "update":
		var o *unstructured.Unstructured
		if o, err = t.in(w.clients[admin]).Get(ctx, t.name, metav1.GetOptions{}); err == nil {
			if o, err = w.merged(o.Object, r.body); err == nil {
				_, err = api.Update(ctx, o, metav1.UpdateOptions{DryRun: dry}, t.subresources()...)
			}
		}
	case "create":
		var o *unstructured.Unstructured
		if o, err = w.merged(w.objects[r.from], r.body); err == nil {
			o, err = w.merged(o.Object, r.more)
		}
		if err == nil {
			if t.subresource != "" {
				o.SetName(t.name)
			}
			_, err = api.Create(ctx, o, metav1.CreateOptions{DryRun: dry}, t.subresources()...)
		}
	default:
		err = fmt.Errorf("unknown verb %q", r.verb)
	}
	return err
}

// expand replaces ${name} by the values in w.names.
func (w *world) expand(s string) string {
	return os.Expand(s, func(name string) string {
		v, ok := w.names[name]
		if !ok {
			panic("the world has no name " + name)
		}
		return v
	})
}

// merged applies a merge patch, in YAML, to an object.
func (w *world) merged(object map[string]any, patch string) (*unstructured.Unstructured, error) {
	var p map[string]any
	if err := yaml.Unmarshal([]byte(w.expand(patch)), &p); err != nil {
		return nil, err
	}
	o, err := json.Marshal(merge(object, p))
	if err != nil {
		return nil, err
	}
	var u unstructured.Unstructured
	return &u, json.Unmarshal(o, &u.Object)
}

// merge applies a JSON merge patch (RFC 7386).
func merge(object, patch map[string]any) map[string]any {
	out := maps.Clone(object)
	if out == nil {
		out = map[string]any{}
	}
	for k, v := range patch {
		switch v := v.(type) {
		case nil:
			delete(out, k)
		case map[string]any:
			inner, ok := out[k].(map[string]any)
			if !ok {
				inner = nil
			}
			out[k] = merge(inner, v)
		default:
			out[k] = v
		}
	}
	return out
}
