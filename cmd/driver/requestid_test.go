package main

import (
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// TestRequestID follows calls by their ids through the logs of all processes that work on them: the
// node plugin with its backend, the mounter and the mount server.
func TestRequestID(t *testing.T) {
	t.Setenv(envEngine, "1")
	r := newRig(t)
	r.start("all", 0)
	r.connect("all", "all")
	w := &workflow{r: r}
	w.run(w.up()[:2])
	ctx := metadata.AppendToOutgoingContext(r.ctx(), "x-request-id", "story-stage")
	if err := os.Mkdir(w.staging(), 0o750); err != nil {
		t.Fatal(err)
	}
	if _, err := r.node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: w.id, StagingTargetPath: w.staging(),
		VolumeCapability: multiWriter(), VolumeContext: w.context, Secrets: w.secrets()}); err != nil {
		t.Fatal(err)
	}
	ctx = metadata.AppendToOutgoingContext(r.ctx(), "x-request-id", "story-unstage")
	if _, err := r.node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: w.id, StagingTargetPath: w.staging()}); err != nil {
		t.Fatal(err)
	}
	ctx = metadata.AppendToOutgoingContext(r.ctx(), "x-request-id", "bad id level=ERROR")
	if _, err := r.ctrl.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: w.id}); err != nil {
		t.Fatal(err)
	}
	w.run(w.down())
	plugin, err := os.ReadFile(r.path("log"))
	if err != nil {
		t.Fatal(err)
	}
	others, err := os.ReadFile(r.path("mounter/mounter.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ log, id, line string }{
		{string(plugin), "story-stage", "msg=call method=NodeStageVolume"},
		{string(others), "story-stage", `msg=mounted volume=` + w.id},
		{string(others), "story-stage", `msg="mounter request" op=mount`},
		{string(others), "story-stage", `msg=serving volume=` + w.id},
		{string(plugin), "story-unstage", "msg=call method=NodeUnstageVolume"},
		{string(others), "story-unstage", `msg=unmounted volume=` + w.id},
		{string(others), "story-unstage", `msg="control request" op=sync`},
		{string(plugin), "", `msg="image created" volume=` + w.id},
		{string(plugin), "", `msg="image deleted" volume=` + w.id},
	} {
		if !hasLine(c.log, c.line, "requestId="+c.id) {
			t.Errorf("no line with %q and the id %q", c.line, c.id)
		}
	}
	if strings.Contains(string(plugin), "bad id") {
		t.Error("an id that is none came into the log")
	}
	r.wantClean()
}

func hasLine(log string, parts ...string) bool {
	for line := range strings.Lines(log) {
		all := true
		for _, p := range parts {
			all = all && strings.Contains(line, p)
		}
		if all {
			return true
		}
	}
	return false
}
