package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestCopiedOutside: a device that was copied from another volume outside of CSI (an EBS snapshot
// that was restored by hand) opens with the same key. It is refused and not changed until its
// attributes declare it a copy. Then both are used side by side.
func TestCopiedOutside(t *testing.T) {
	t.Setenv(envEngine, "1")
	r := newRig(t)
	s := newEC2(t, r.path("ec2"))
	r.backend = s.args
	r.start("all", 0)
	r.connect("all", "all")
	v := &ebsVolume{ctrl: r.ctrl, node: r.node, r: r, name: "pvc"}
	w := &ebsVolume{ctrl: r.ctrl, node: r.node, r: r, name: "restored"}
	on := func(v *ebsVolume) func() error { return func() error { return v.attach(ebsNode) } }
	all(t, v.create, w.create, on(v), v.stage, v.mount, func() error { return writeDurably(filepath.Join(v.target(), "file"), []byte("text")) }, v.unmount, v.unstage)

	data := filepath.Join(r.path("ec2/data"), w.id)
	if out, err := exec.Command("cp", "--sparse=always", filepath.Join(r.path("ec2/data"), v.id), data).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	before := firstMiB(t, data)
	all(t, v.stage, v.mount, on(w)) // whether the original is in use makes no difference
	for range 2 {
		err := w.stage()
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "copy of another") || !strings.Contains(err.Error(), "set keyVolume") {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(before, firstMiB(t, data)) {
		t.Fatal("it was written to")
	}

	w.context = map[string]string{"recordSize": "64KiB", "keyVolume": v.id}
	all(t, w.stage, w.mount, func() error { return sameFile(filepath.Join(w.target(), "file"), []byte("text")) },
		func() error { return writeDurably(filepath.Join(w.target(), "own"), []byte("own")) }, w.unmount, w.unstage)
	// From now on it is known as a copy.
	delete(w.context, "keyVolume")
	all(t, w.stage, w.mount, w.unmount, w.unstage, func() error { return w.detach(ebsNode) }, v.unmount, v.unstage, func() error { return v.detach(ebsNode) }, v.remove, w.remove)
}
