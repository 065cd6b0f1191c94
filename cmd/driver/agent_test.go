package main

import "testing"

// TestNodeName: with ebs, the node id is not the name of the Node object. A node agent that used
// the id as the name would write nothing.
func TestNodeName(t *testing.T) {
	for _, c := range []struct {
		kind, env, want string
		bad             bool
	}{
		{kind: "local", env: "other", want: "id"},
		{kind: "ebs", env: "worker-1", want: "worker-1"},
		{kind: "ebs", bad: true},
	} {
		t.Setenv("NODE_NAME", c.env)
		b := backendFlags{kind: c.kind, node: "id"}
		if name, err := b.nodeName(); name != c.want || (err != nil) != c.bad {
			t.Errorf("%+v: %q, %v", c, name, err)
		}
	}
}
