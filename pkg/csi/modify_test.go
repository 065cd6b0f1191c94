package csi_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	spec "github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/local"
	"github.com/sealvol/sealvol/pkg/csi"
)

// tunable is the local backend with two parameters of its own, size and color. Only color can be
// changed. It records the calls that it gets.
type tunable struct {
	*local.Backend
	mu       sync.Mutex
	spec     backend.Spec         // guarded by mu; the last one that was created
	snapshot backend.SnapshotSpec // guarded by mu
	modified map[string]string    // guarded by mu
	err      error                // guarded by mu; the result of Modify
	fails    bool                 // guarded by mu; makes snapshots fail
	health   error                // guarded by mu; the result of Health, if not nil
}

func (t *tunable) Parameter(key string) (own, mutable bool) {
	return key == "size" || key == "color", key == "color"
}

func (t *tunable) Modify(ctx context.Context, id string, m map[string]string) error {
	if _, err := t.Get(ctx, id); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.modified = m
	return t.err
}

func (t *tunable) Health(ctx context.Context, id string) ([]backend.Condition, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.health != nil {
		return nil, t.health
	}
	return t.Backend.Health(ctx, id)
}

func (t *tunable) Create(ctx context.Context, s backend.Spec) (backend.Volume, error) {
	t.mu.Lock()
	t.spec = s
	t.mu.Unlock()
	s.Class, s.Mutable = nil, nil
	return t.Backend.Create(ctx, s)
}

func (t *tunable) CreateSnapshot(ctx context.Context, s backend.SnapshotSpec) (backend.Snapshot, error) {
	t.mu.Lock()
	t.snapshot = s
	fails := t.fails
	t.mu.Unlock()
	snap, err := t.Backend.CreateSnapshot(ctx, s)
	if fails {
		snap.State, snap.Message = backend.SnapshotFailed, "the key is not accessible"
	}
	return snap, err
}

// TestModify: a VolumeAttributesClass reaches the backend completely, what cannot be changed is
// refused before that, and each kind of failure has its code.
func TestModify(t *testing.T) {
	back := &tunable{}
	r := newRigWith(t, csi.Options{Controller: back})
	v, err := r.ctrl.CreateVolume(r.ctx(), &spec.CreateVolumeRequest{Name: "pvc", VolumeCapabilities: []*spec.VolumeCapability{capability(writer)},
		CapacityRange: &spec.CapacityRange{RequiredBytes: size}, Parameters: map[string]string{"size": "7", "recordSize": "64KiB"}, MutableParameters: map[string]string{"color": "red"}})
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(back.spec.Class, map[string]string{"size": "7"}) || !maps.Equal(back.spec.Mutable, map[string]string{"color": "red"}) || !maps.Equal(back.spec.Parameters, map[string]string{"recordSize": "64KiB"}) {
		t.Fatalf("%+v", back.spec)
	}
	if c := v.GetVolume().GetVolumeContext(); !maps.Equal(c, map[string]string{"recordSize": "64KiB"}) {
		t.Errorf("the backend's parameters are in the context: %v", c)
	}
	modify := func(id string, m map[string]string) error {
		_, err := r.ctrl.ControllerModifyVolume(r.ctx(), &spec.ControllerModifyVolumeRequest{VolumeId: id, MutableParameters: m})
		return err
	}
	id := v.GetVolume().GetVolumeId()
	wantCode(t, modify(id, map[string]string{"color": "blue"}), codes.OK)
	if !maps.Equal(back.modified, map[string]string{"color": "blue"}) {
		t.Fatal(back.modified)
	}
	long := strings.Repeat("x", 5000)
	for _, m := range []map[string]string{{"size": "8"}, {"recordSize": "64KiB"}, {"none": "1"}, {long: "1"}, {"color": long}} {
		err := modify(id, m)
		wantCode(t, err, codes.InvalidArgument)
		if strings.Contains(err.Error(), long) {
			t.Error("the error repeats what was sent")
		}
	}
	if !maps.Equal(back.modified, map[string]string{"color": "blue"}) {
		t.Fatal("what was refused reached the backend")
	}
	wantCode(t, modify("", nil), codes.InvalidArgument)
	wantCode(t, modify("nothing", map[string]string{"color": "blue"}), codes.NotFound)
	for kind, code := range map[error]codes.Code{backend.ErrQuota: codes.ResourceExhausted, backend.ErrInvalid: codes.InvalidArgument, backend.ErrUnavailable: codes.Unavailable, errors.New("x"): codes.Internal} {
		back.mu.Lock()
		back.err = fmt.Errorf("%w: four within 24 hours", kind)
		back.mu.Unlock()
		err := modify(id, map[string]string{"color": "green"})
		wantCode(t, err, code)
		if !strings.Contains(err.Error(), "24 hours") {
			t.Errorf("the reason is lost: %v", err)
		}
	}
	// A running call makes others fail.
	r.setHook(func(step string) {
		if step == "modify" {
			r.setHook(nil)
			if err := modify(id, map[string]string{"color": "red"}); status.Code(err) != codes.Aborted {
				t.Errorf("at the same time: %v", err)
			}
		}
	})
	back.mu.Lock()
	back.err = nil
	back.mu.Unlock()
	wantCode(t, modify(id, map[string]string{"color": "white"}), codes.OK)
}

// TestModifyNotSupported: a backend without parameters of its own reports that.
func TestModifyNotSupported(t *testing.T) {
	r := newRig(t)
	v := r.create("pvc", writer)
	_, err := r.ctrl.ControllerModifyVolume(r.ctx(), &spec.ControllerModifyVolumeRequest{VolumeId: v.id, MutableParameters: map[string]string{"type": "x"}})
	wantCode(t, err, codes.Unimplemented)
	_, err = r.ctrl.CreateVolume(r.ctx(), &spec.CreateVolumeRequest{Name: "other", VolumeCapabilities: []*spec.VolumeCapability{capability(writer)}, MutableParameters: map[string]string{"type": "x"}})
	wantCode(t, err, codes.InvalidArgument)
}

// TestPurpose: what provisioner and snapshotter send with --extra-create-metadata reaches the
// backend and nothing else.
func TestPurpose(t *testing.T) {
	back := &tunable{}
	r := newRigWith(t, csi.Options{Controller: back})
	const k = "csi.storage.k8s.io/"
	v, err := r.ctrl.CreateVolume(r.ctx(), &spec.CreateVolumeRequest{Name: "pvc", VolumeCapabilities: []*spec.VolumeCapability{capability(writer)}, CapacityRange: &spec.CapacityRange{RequiredBytes: size},
		Parameters: map[string]string{k + "pvc/name": "data", k + "pvc/namespace": "shop", k + "pv/name": "pvc-1", k + "fstype": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	if want := (backend.Purpose{"pvc/name": "data", "pvc/namespace": "shop", "pv/name": "pvc-1"}); !maps.Equal(back.spec.For, want) {
		t.Errorf("%v", back.spec.For)
	}
	if c := v.GetVolume().GetVolumeContext(); len(c) > 0 {
		t.Errorf("in the context: %v", c)
	}
	if _, err := r.ctrl.CreateSnapshot(r.ctx(), &spec.CreateSnapshotRequest{Name: "snap", SourceVolumeId: v.GetVolume().GetVolumeId(),
		Parameters: map[string]string{k + "volumesnapshot/name": "s", k + "volumesnapshot/namespace": "shop", k + "volumesnapshotcontent/name": "c"}}); err != nil {
		t.Fatal(err)
	}
	if want := (backend.Purpose{"volumesnapshot/name": "s", "volumesnapshot/namespace": "shop", "volumesnapshotcontent/name": "c"}); !maps.Equal(back.snapshot.For, want) {
		t.Errorf("%v", back.snapshot.For)
	}
}

// TestFailedSnapshot: a failed snapshot stays failed. The error says so, names it, and says what to
// do.
func TestFailedSnapshot(t *testing.T) {
	back := &tunable{fails: true}
	r := newRigWith(t, csi.Options{Controller: back})
	v := r.createWith("pvc", capability(writer))
	for range 2 {
		_, err := r.ctrl.CreateSnapshot(r.ctx(), &spec.CreateSnapshotRequest{Name: "s", SourceVolumeId: v.id})
		wantCode(t, err, codes.FailedPrecondition)
		if text := err.Error(); !strings.Contains(text, "the key is not accessible") || !strings.Contains(text, "delete it") {
			t.Errorf("unclear: %v", err)
		}
	}
}

// TestExpandHoldsUpNobody: while an expansion runs, another expansion is refused, but detaching and
// attaching work.
func TestExpandHoldsUpNobody(t *testing.T) {
	r := newRig(t)
	v := r.create("pvc-1", multiWriter)
	wantCode(t, v.attach(false), codes.OK)
	reached, release := make(chan bool), make(chan bool)
	r.setHook(func(step string) {
		if step == "expand" {
			reached <- true
			<-release
		}
	})
	expand := func() error {
		_, err := r.ctrl.ControllerExpandVolume(r.ctx(), &spec.ControllerExpandVolumeRequest{VolumeId: v.id, CapacityRange: &spec.CapacityRange{RequiredBytes: 2 * size}})
		return err
	}
	detach := func() error {
		_, err := r.ctrl.ControllerUnpublishVolume(r.ctx(), &spec.ControllerUnpublishVolumeRequest{VolumeId: v.id, NodeId: node})
		return err
	}
	first := make(chan error)
	go func() { first <- expand() }()
	<-reached
	wantCode(t, expand(), codes.Aborted)
	wantCode(t, detach(), codes.OK)
	wantCode(t, v.attach(false), codes.OK)
	r.setHook(nil)
	release <- true
	wantCode(t, <-first, codes.OK)
}
