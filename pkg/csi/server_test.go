package csi_test

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	spec "github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/pkg/mounter/mountertest"
)

// TestNothingSecretIsLogged makes all calls with marked secrets and contexts, at debug level.
func TestNothingSecretIsLogged(t *testing.T) {
	r := newRig(t)
	const secret, private = "5ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2", "PRIVATEMARK"
	var errs strings.Builder
	note := func(err error) {
		if err != nil {
			errs.WriteString(err.Error() + "\n")
		}
	}
	v := r.create("pvc-1", multiWriter)
	v.secrets = map[string]string{"kek": secret, "token": private}
	v.context = map[string]string{"recordSize": "64KiB", "csi.storage.k8s.io/pod.name": private}
	note(v.attach(false))
	v.publish = map[string]string{"device": private}
	note(v.stage())
	note(v.publishTo("a"))
	if errs.Len() != 0 {
		t.Fatal(errs.String())
	}
	v.secrets = map[string]string{"kek": secret[:62] + "zz", "kek-previous": private}
	note(v.stage())
	note(v.publishTo("b"))
	v.secrets = map[string]string{"kek": private + secret}
	note(v.stage())
	v.context = map[string]string{private: private}
	note(v.stage())
	note(v.publishTo("b"))
	note(v.attach(false))
	v.context = map[string]string{"recordSize": private}
	note(v.stage())
	v.context = map[string]string{"suite": private}
	note(v.stage())
	v.context, v.publish = nil, map[string]string{"device": strings.Repeat(private, 1000)}
	note(v.stage())
	v.publish = nil
	for _, c := range []*spec.VolumeCapability{capability(multiWriter, "password="+private)} {
		v.cap = c
		note(v.stage())
		note(v.attach(false))
	}
	_, err := r.ctrl.CreateVolume(r.ctx(), &spec.CreateVolumeRequest{Name: "x", VolumeCapabilities: []*spec.VolumeCapability{capability(writer)},
		Parameters: map[string]string{"suite": private}, Secrets: map[string]string{"a": private}})
	note(err)
	_, err = r.ctrl.ValidateVolumeCapabilities(r.ctx(), &spec.ValidateVolumeCapabilitiesRequest{VolumeId: v.id, VolumeCapabilities: []*spec.VolumeCapability{capability(writer)}, VolumeContext: map[string]string{private: private}, Secrets: map[string]string{"a": private}})
	note(err)
	_, err = r.ctrl.ControllerExpandVolume(r.ctx(), &spec.ControllerExpandVolumeRequest{VolumeId: v.id, Secrets: map[string]string{"a": private}})
	note(err)
	v.cap = capability(multiWriter)
	v.drop("a", "b")
	log := r.log.String()
	if !strings.Contains(log, "NodeStageVolume") || !strings.Contains(log, "staging_target_path") || strings.Count(errs.String(), "\n") < 8 {
		t.Fatalf("the workflow did not run as meant:\n%s\n%s", errs.String(), log)
	}
	for _, mark := range []string{secret, secret[:16], private, "\"kek\""} {
		if strings.Contains(log, mark) || strings.Contains(errs.String(), mark) {
			t.Errorf("%q was let out", mark)
		}
	}
}

// TestCancelled cancels calls at random moments and repeats them.
func TestCancelled(t *testing.T) {
	r := newRig(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	v := r.create("pvc-1", multiWriter)
	wantCode(t, v.attach(false), codes.OK)
	cut := func(call func(context.Context) error) {
		t.Helper()
		for range 3 {
			ctx, cancel := context.WithCancel(r.ctx())
			done := make(chan struct{})
			go func() {
				defer close(done)
				_ = call(ctx) // cancelled or not
			}()
			for range rnd.IntN(2000) {
				select {
				case <-done:
				default:
				}
			}
			cancel()
			<-done
		}
		for { // a cancelled call may still be running
			err := call(r.ctx())
			if status.Code(err) == codes.Aborted {
				continue
			}
			wantCode(t, err, codes.OK)
			return
		}
	}
	for range 5 {
		cut(func(ctx context.Context) error {
			_, err := r.node.NodeStageVolume(ctx, &spec.NodeStageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging(), VolumeCapability: v.cap, VolumeContext: v.context, Secrets: v.secrets})
			return err
		})
		cut(func(ctx context.Context) error {
			_, err := r.node.NodePublishVolume(ctx, v.publishRequest("a"))
			return err
		})
		if n := len(mountertest.Below(v.target("a"))); n != 1 {
			t.Fatalf("%d mounts", n)
		}
		cut(func(ctx context.Context) error {
			_, err := r.node.NodeUnpublishVolume(ctx, &spec.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: v.target("a")})
			return err
		})
		cut(func(ctx context.Context) error {
			_, err := r.node.NodeUnstageVolume(ctx, &spec.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging()})
			return err
		})
	}
	v.drop("a")
}

// TestBusyAndPanic: a second operation on a volume is refused at once. A panic becomes an error
// that does not contain the panic's value.
func TestBusyAndPanic(t *testing.T) {
	r := newRig(t)
	v := r.create("pvc-1", multiWriter)
	wantCode(t, v.attach(false), codes.OK)
	reached, release := make(chan bool), make(chan bool)
	r.setHook(func(step string) {
		if step == "stage" {
			reached <- true
			<-release
		}
	})
	first := make(chan error)
	go func() { first <- v.stage() }()
	<-reached
	wantCode(t, v.stage(), codes.Aborted)
	wantCode(t, v.unstage(), codes.Aborted)
	_, err := r.ctrl.DeleteVolume(r.ctx(), &spec.DeleteVolumeRequest{VolumeId: v.id})
	wantCode(t, err, codes.Aborted)
	must[*spec.ControllerGetVolumeResponse](t)(r.ctrl.ControllerGetVolume(r.ctx(), &spec.ControllerGetVolumeRequest{VolumeId: v.id}))
	r.setHook(nil)
	release <- true
	wantCode(t, <-first, codes.OK)

	r.setHook(func(string) { panic("TOPSECRET") })
	for range 2 {
		err = v.publishTo("a")
		wantCode(t, err, codes.Internal)
	}
	if strings.Contains(err.Error(), "TOPSECRET") || strings.Contains(r.log.String(), "TOPSECRET") || !strings.Contains(r.log.String(), "panic") {
		t.Fatal(err)
	}
	r.setHook(nil)
	wantCode(t, v.publishTo("a"), codes.OK)
	v.drop("a")
}
