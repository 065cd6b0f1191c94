package ebs

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

// permission is what IAM checks for a call: one for each resource that the call uses.
// https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html
type permission struct {
	action, resource string
	context          map[string][]string // condition keys
}

// permissions returns those that a call needs.
func permissions(s *ec2test.Server, c ec2test.Call) (list []permission) {
	arn := func(kind, id string) string {
		account := "123456789012"
		if kind == "snapshot" {
			account = ""
		}
		return "arn:aws:ec2:" + s.Region() + ":" + account + ":" + kind + "/" + id
	}
	need := func(action, resource string, context map[string][]string) {
		list = append(list, permission{"ec2:" + action, resource, context})
	}
	existing := func(id string) map[string][]string {
		m := map[string][]string{}
		for k, v := range s.Tags(id) {
			m["aws:ResourceTag/"+k] = []string{v}
		}
		return m
	}
	param := c.Params.Get
	// made is a resource with tags that the call creates.
	made := func(kind string) {
		with := map[string][]string{}
		for i := 1; param(fmt.Sprintf("TagSpecification.1.Tag.%d.Key", i)) != ""; i++ {
			k := param(fmt.Sprintf("TagSpecification.1.Tag.%d.Key", i))
			with["aws:RequestTag/"+k] = []string{param(fmt.Sprintf("TagSpecification.1.Tag.%d.Value", i))}
			with["aws:TagKeys"] = append(with["aws:TagKeys"], k)
		}
		need(c.Action, arn(kind, "*"), with)
		if len(with) > 0 {
			need("CreateTags", arn(kind, "*"), map[string][]string{"ec2:CreateAction": {c.Action}})
		}
	}
	switch c.Action {
	case "CreateVolume":
		made("volume")
		if id := param("SnapshotId"); id != "" {
			need(c.Action, arn("snapshot", id), existing(id))
		}
	case "CopyVolumes":
		made("volume")
		need(c.Action, arn("volume", param("SourceVolumeId")), existing(param("SourceVolumeId")))
	case "CreateSnapshot":
		made("snapshot")
		need(c.Action, arn("volume", param("VolumeId")), existing(param("VolumeId")))
	case "DeleteSnapshot":
		need(c.Action, arn("snapshot", param("SnapshotId")), existing(param("SnapshotId")))
	case "CreateTags", "DeleteTags":
		with := existing(param("ResourceId.1"))
		if k := param("Tag.1.Key"); k != "" {
			with["aws:TagKeys"] = []string{k}
		}
		need(c.Action, arn("volume", param("ResourceId.1")), with)
	case "AttachVolume", "DetachVolume":
		need(c.Action, arn("instance", param("InstanceId")), nil)
		fallthrough
	case "ModifyVolume", "DeleteVolume":
		need(c.Action, arn("volume", param("VolumeId")), existing(param("VolumeId")))
	default:
		need(c.Action, "*", nil) // describes have no resources
	}
	return list
}

// allows evaluates one statement.
func (st statement) allows(p permission) bool {
	if !slices.Contains(st.Action, p.action) {
		return false
	}
	glob := func(pattern string) bool {
		return regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*") + "$").MatchString(p.resource)
	}
	if !slices.ContainsFunc(texts(st.Resource), glob) {
		return false
	}
	for operator, keys := range st.Condition {
		for key, want := range keys {
			have := p.context[key]
			in := func(v string) bool { return slices.Contains(texts(want), v) }
			switch {
			case operator == "Null" && fmt.Sprint(want) == fmt.Sprint(have == nil):
			case operator == "StringEquals" && len(have) == 1 && in(have[0]):
			case operator == "ForAllValues:StringEquals" && !slices.ContainsFunc(have, func(v string) bool { return !in(v) }):
			default:
				return false
			}
		}
	}
	return true
}

// texts is one string or several.
func texts(v any) (list []string) {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		for _, x := range v {
			list = append(list, fmt.Sprint(x))
		}
	}
	return list
}

// refused runs a backend against an EC2 that allows what a list of statements allows, and returns
// what was refused.
func refused(t *testing.T, list []statement, run func(t *testing.T, s *ec2test.Server, b *Backend)) (calls []string) {
	s := newEC2(t, ec2test.Options{}, false)
	var mu sync.Mutex
	s.SetFault(func(c ec2test.Call) ec2test.Fault {
		for _, p := range permissions(s, c) {
			if !slices.ContainsFunc(list, func(st statement) bool { return st.allows(p) }) {
				mu.Lock()
				calls = append(calls, c.Action+" of "+p.resource)
				mu.Unlock()
				return ec2test.Fault{Code: "UnauthorizedOperation", Status: 403, Message: "You are not authorized to perform this operation."}
			}
		}
		return ec2test.Fault{}
	})
	o := options(s)
	o.Cluster = "CLUSTER_ID" // as in the documents
	run(t, s, open(t, o))
	return calls
}

// controllerLife makes all calls of a controller.
func controllerLife(t *testing.T, _ *ec2test.Server, b *Backend) {
	ctx := t.Context()
	sp := spec("a")
	sp.Class = map[string]string{"type": "io2", "iopsPerGB": "5"}
	v, err := b.Create(ctx, sp)
	if err != nil {
		return // refused, which is all that matters
	}
	for _, step := range []func() error{
		func() error { _, err := b.Attach(ctx, v.ID, nodeA, true); return err },
		func() error { return b.Detach(ctx, v.ID, nodeA) },
		func() error { _, err := b.Attach(ctx, v.ID, nodeA, false); return err },
		func() error { _, err := b.Expand(ctx, v.ID, 12*gib, 0); return err },
		func() error { return b.Detach(ctx, v.ID, nodeA) },
		func() error {
			s, err := b.CreateSnapshot(ctx, backend.SnapshotSpec{Name: "s", Volume: v.ID})
			if err != nil {
				return err
			}
			_, err = b.Create(ctx, backend.Spec{Name: "restored", Source: &backend.Source{Snapshot: s.ID}})
			return errors.Join(err, b.DeleteSnapshot(ctx, s.ID))
		},
		func() error {
			_, err := b.Create(ctx, backend.Spec{Name: "copy", Source: &backend.Source{Volume: v.ID}})
			return err
		},
		func() error { _, _, err := b.List(ctx, "", 0); return err },
		func() error { _, err := b.Health(ctx, v.ID); return err },
		func() error { _, _, err := b.ListSnapshots(ctx, "", "", 0); return err },
		func() error { return b.Delete(ctx, v.ID) },
	} {
		_ = step() // EC2 counts refused calls
	}
}

// nodeLife makes all calls of a node.
func nodeLife(t *testing.T, s *ec2test.Server, b *Backend) {
	id := volumeMeanwhile(t, s, "CLUSTER_ID")
	_, err := b.Info(t.Context())
	_, serr := b.FormatState(t.Context(), id)
	_ = errors.Join(err, serr, b.KeepFormat(t.Context(), id, backend.FormatBegun), b.KeepFormat(t.Context(), id, backend.FormatDone)) // EC2 counts refused calls
}

// TestPoliciesAllow uses docs/iam/controller.json to decide about every call of a volume's life,
// like IAM: all are allowed, and without any one statement some are not. Resources with another
// cluster's tag must not be changed. node.json allows the calls of a node.
func TestPoliciesAllow(t *testing.T) {
	all := statements(t, "controller.json")
	if calls := refused(t, all, controllerLife); len(calls) > 0 {
		t.Fatalf("refused: %q", calls)
	}
	for i, st := range all {
		without := slices.Delete(slices.Clone(all), i, i+1)
		if calls := refused(t, without, controllerLife); len(calls) == 0 {
			t.Errorf("%s is not needed", st.Sid)
		}
	}
}

// TestPoliciesForeign: a controller may not change resources of another cluster or without a
// cluster.
func TestPoliciesForeign(t *testing.T) {
	all := statements(t, "controller.json")
	calls := refused(t, all, func(t *testing.T, s *ec2test.Server, b *Backend) {
		for i := range 2 { // one of another cluster, one without a cluster
			o := options(s)
			o.Cluster = []string{"other", "x"}[i]
			s.SetFault(nil)
			v := mustCreate(t, open(t, o), spec(fmt.Sprint("v", i)))
			if i == 1 {
				s.Update(v.ID, "untag")
			}
			for _, action := range []string{"AttachVolume", "DetachVolume", "ModifyVolume", "DeleteVolume", "CreateSnapshot"} {
				for _, p := range permissions(s, ec2test.Call{Action: action, Params: map[string][]string{"VolumeId": {v.ID}, "InstanceId": {nodeA}}}) {
					if strings.Contains(p.resource, v.ID) && slices.ContainsFunc(all, func(st statement) bool { return st.allows(p) }) {
						t.Errorf("%s of what is not ours is allowed", action)
					}
				}
			}
		}
	})
	if len(calls) > 0 {
		t.Error(calls)
	}
	refused(t, all, func(t *testing.T, s *ec2test.Server, b *Backend) {
		v := mustCreate(t, b, spec("ours"))
		for _, key := range []string{"", tagCluster} { // without keys, DeleteTags removes all tags, and ForAllValues matches an empty set
			for _, p := range permissions(s, ec2test.Call{Action: "DeleteTags", Params: map[string][]string{"ResourceId.1": {v.ID}, "Tag.1.Key": {key}}}) {
				if slices.ContainsFunc(all, func(st statement) bool { return st.allows(p) }) {
					t.Errorf("taking tag %q off is allowed", key)
				}
			}
		}
	})
}

// TestNodePolicy does the same for the policy of nodes.
func TestNodePolicy(t *testing.T) {
	node := statements(t, "node.json")
	if calls := refused(t, node, nodeLife); len(calls) > 0 {
		t.Errorf("a node: refused: %q", calls)
	}
	for i, st := range node {
		if calls := refused(t, slices.Delete(slices.Clone(node), i, i+1), nodeLife); len(calls) == 0 {
			t.Errorf("%s is not needed", st.Sid)
		}
	}
	refused(t, node, func(t *testing.T, s *ec2test.Server, _ *Backend) {
		ours, theirs := volumeMeanwhile(t, s, "CLUSTER_ID"), volumeMeanwhile(t, s, "other")
		for _, c := range []ec2test.Call{
			{Action: "DeleteTags", Params: map[string][]string{"ResourceId.1": {ours}, "Tag.1.Key": {tagFormatted}}}, // a formatted volume stays formatted
			{Action: "CreateTags", Params: map[string][]string{"ResourceId.1": {ours}, "Tag.1.Key": {tagCluster}}},
			{Action: "CreateTags", Params: map[string][]string{"ResourceId.1": {ours}}},
			{Action: "CreateTags", Params: map[string][]string{"ResourceId.1": {theirs}, "Tag.1.Key": {tagFormatted}}},
		} {
			for _, p := range permissions(s, c) {
				if slices.ContainsFunc(node, func(st statement) bool { return st.allows(p) }) {
					t.Errorf("a node: %s of %v is allowed", c.Action, c.Params)
				}
			}
		}
	})
}
