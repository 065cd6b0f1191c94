package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
)

// rekey is a volume whose key-encryption keys change while it is mounted.
type rekey struct {
	*workflow
	t      *testing.T
	reader bool
}

// kek is the n-th key.
func kekOf(n int) string { return strings.Repeat(fmt.Sprintf("%02x", n), 32) }

func secretsOf(kek, previous int) map[string]string {
	s := map[string]string{"kek": kekOf(kek)}
	if previous > 0 {
		s["kek-previous"] = kekOf(previous)
	}
	return s
}

func (k *rekey) capability() *csi.VolumeCapability {
	c := multiWriter()
	if k.reader {
		c.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
	}
	return c
}

func (k *rekey) stage(secrets map[string]string) error {
	_, err := k.r.node.NodeStageVolume(k.r.ctx(), &csi.NodeStageVolumeRequest{VolumeId: k.id, StagingTargetPath: k.staging(),
		VolumeCapability: k.capability(), VolumeContext: k.context, Secrets: secrets})
	return err
}

func (k *rekey) publish(secrets map[string]string) error {
	_, err := k.r.node.NodePublishVolume(k.r.ctx(), &csi.NodePublishVolumeRequest{VolumeId: k.id, StagingTargetPath: k.staging(), TargetPath: k.target(),
		VolumeCapability: k.capability(), VolumeContext: k.context, Secrets: secrets})
	return err
}

func (k *rekey) ok(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

// refused expects an error that says that the key is wrong.
func (k *rekey) refused(err error) {
	k.t.Helper()
	if status.Code(err) != codes.Unauthenticated {
		k.t.Fatal(err)
	}
}

// slots returns the key slots of the mounted volume.
func (k *rekey) slots() []volumectl.KeySlot {
	k.t.Helper()
	var l volumectl.KeyList
	c := control.Client{Path: mounter.ControlPath(k.r.path("mounter"), k.id)}
	k.ok(c.Do(k.r.ctx(), control.Request{Op: "key-list"}, &l))
	return l.Slots
}

func (k *rekey) wantOneSlot() {
	k.t.Helper()
	if s := k.slots(); len(s) != 1 {
		k.t.Fatalf("slots: %+v", s)
	}
}

func (k *rekey) pid() int {
	k.t.Helper()
	h, err := mounter.Client{Socket: mounter.SocketPath(k.r.path("mounter"))}.Health(k.r.ctx(), k.id)
	k.ok(err)
	return h.PID
}

// TestRepublishedKey changes the key of a volume through the secret of its publication, which the
// kubelet sends with requiresRepublish. The running server rewraps the volume's key, and only then
// removes the previous key.
func TestRepublishedKey(t *testing.T) {
	t.Setenv(envEngine, "1")
	r := newRig(t)
	r.start("all", 0)
	r.connect("all", "all")
	k := &rekey{workflow: &workflow{r: r}, t: t}
	k.run(k.up()[:2])
	k.ok(os.Mkdir(k.staging(), 0o750))
	k.ok(k.stage(secretsOf(1, 0)))
	k.ok(k.publish(secretsOf(1, 0)))
	file := filepath.Join(k.target(), "file")
	content := bytes.Repeat([]byte("content "), 100_000)
	k.ok(os.WriteFile(file, content, 0o600))
	pid := k.pid()
	check := func() {
		t.Helper()
		if b, err := os.ReadFile(file); err != nil || !bytes.Equal(b, content) {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
	}

	// Keys that do not belong to the volume change nothing, and the mount continues.
	k.refused(k.publish(secretsOf(2, 0)))
	k.refused(k.publish(secretsOf(2, 3)))
	check()
	k.ok(k.publish(secretsOf(1, 3))) // the previous key may be missing
	k.ok(k.publish(secretsOf(1, 1)))
	k.wantOneSlot()
	for range 2 { // the first call changes the key, the second finds nothing to do
		k.ok(k.publish(secretsOf(2, 1)))
		k.wantOneSlot()
	}
	k.ok(k.publish(secretsOf(2, 0))) // confirmed
	k.refused(k.publish(secretsOf(1, 0)))
	check()
	if k.pid() != pid {
		t.Fatal("another server")
	}

	k.ok(control.Client{Path: mounter.ControlPath(r.path("mounter"), k.id)}.Do(r.ctx(),
		control.Request{Op: "loglevel", Args: volumectl.LogLevelArgs{Level: "debug"}}, nil))

	k.serverDies()
	check()
	k.againstItsKey()
	check()

	// A volume that was not mounted when its key changed.
	k.run(k.down()[:2])
	k.refused(k.stage(secretsOf(11, 0)))
	k.ok(k.stage(secretsOf(13, 12)))
	k.ok(k.publish(secretsOf(13, 0)))
	k.wantOneSlot()
	check()
	k.run(k.down()[:2])

	k.readOnly(check)
	k.run(k.down()[1:])
	r.wantClean()
}

// serverDies kills the server in the middle of a change, repeatedly.
func (k *rekey) serverDies() {
	k.t.Helper()
	for n := 2; n < 12; n++ {
		done := make(chan error, 1)
		pid := k.pid()
		go func() { done <- k.publish(secretsOf(n+1, n)) }()
		if n%2 == 0 {
			k.slots()
		}
		kill(k.t, pid)
		k.t.Log(<-done) // the kill came too late, or in the middle
		k.ok(k.publish(secretsOf(n+1, n)))
		k.wantOneSlot()
	}
}

// againstItsKey: a stage of the mounted volume and an expansion check the key, even while the
// volume is frozen.
func (k *rekey) againstItsKey() {
	k.t.Helper()
	expand := func(secrets map[string]string) error {
		_, err := k.r.node.NodeExpandVolume(k.r.ctx(), &csi.NodeExpandVolumeRequest{VolumeId: k.id, VolumePath: k.target(), Secrets: secrets})
		return err
	}
	server := control.Client{Path: mounter.ControlPath(k.r.path("mounter"), k.id)}
	for _, frozen := range []bool{false, true} {
		if frozen {
			k.ok(server.Do(k.r.ctx(), control.Request{Op: "freeze", Args: volumectl.FreezeArgs{TimeoutMillis: 60_000}}, nil))
		}
		k.refused(k.stage(secretsOf(11, 0)))
		k.refused(k.stage(secretsOf(20, 21)))
		k.ok(k.stage(secretsOf(12, 0)))
		k.ok(k.stage(secretsOf(12, 20)))
		k.refused(expand(secretsOf(11, 0)))
		k.refused(k.publish(secretsOf(11, 0)))
	}
	k.ok(server.Do(k.r.ctx(), control.Request{Op: "thaw", Args: volumectl.ThawArgs{}}, nil))
	k.ok(expand(secretsOf(12, 0)))
	k.ok(expand(nil))
	k.wantOneSlot()
}

// readOnly: a volume that is mounted read-only keeps its key until it is mounted for writing.
func (k *rekey) readOnly(check func()) {
	k.t.Helper()
	k.reader = true
	k.ok(k.stage(secretsOf(14, 13)))
	k.ok(k.publish(secretsOf(14, 13)))
	k.refused(k.publish(secretsOf(14, 12)))
	k.refused(k.stage(secretsOf(14, 12)))
	k.refused(k.stage(secretsOf(14, 0)))
	k.ok(k.stage(secretsOf(14, 13)))
	check()
	k.run(k.down()[:2])
	k.reader = false
	k.ok(k.stage(secretsOf(13, 0)))
}
