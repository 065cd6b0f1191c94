package csi_test

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
)

func ofVolume(id string) *spec.VolumeContentSource {
	return &spec.VolumeContentSource{Type: &spec.VolumeContentSource_Volume{Volume: &spec.VolumeContentSource_VolumeSource{VolumeId: id}}}
}

func ofSnapshot(id string) *spec.VolumeContentSource {
	return &spec.VolumeContentSource{Type: &spec.VolumeContentSource_Snapshot{Snapshot: &spec.VolumeContentSource_SnapshotSource{SnapshotId: id}}}
}

// copyOf creates a volume from a source.
func (r *rig) copyOf(name string, c *spec.VolumeCapability, source *spec.VolumeContentSource, required int64) *spec.Volume {
	r.t.Helper()
	return must[*spec.CreateVolumeResponse](r.t)(r.ctrl.CreateVolume(r.ctx(), &spec.CreateVolumeRequest{Name: name, VolumeCapabilities: []*spec.VolumeCapability{c},
		CapacityRange: &spec.CapacityRange{RequiredBytes: required}, VolumeContentSource: source})).GetVolume()
}

func (r *rig) snapshot(name, volume string) *spec.Snapshot {
	r.t.Helper()
	return must[*spec.CreateSnapshotResponse](r.t)(r.ctrl.CreateSnapshot(r.ctx(), &spec.CreateSnapshotRequest{Name: name, SourceVolumeId: volume,
		Parameters: map[string]string{"method": "device", "csi.storage.k8s.io/volumesnapshot/name": "x"}})).GetSnapshot()
}

// TestSnapshotsAndClones checks the responses for volumes and raw block devices. cmd/driver tests
// their contents.
func TestSnapshotsAndClones(t *testing.T) {
	for kind, c := range map[string]*spec.VolumeCapability{"files": capability(writer), "raw": blockCapability(writer)} {
		t.Run(kind, func(t *testing.T) {
			r := newRig(t)
			v := r.createWith("pvc", c).up() // a copy of a volume that was never used is refused: TestNothingTwice
			wantCode(t, v.unstage(), codes.OK)
			begin := time.Now().Add(-time.Minute)
			s := r.snapshot("snap", v.id)
			if again := r.snapshot("snap", v.id); again.GetSnapshotId() != s.GetSnapshotId() || !again.GetCreationTime().AsTime().Equal(s.GetCreationTime().AsTime()) {
				t.Fatal(s, again)
			}
			if s.GetSourceVolumeId() != v.id || !s.GetReadyToUse() || s.GetSizeBytes() != size || s.GetCreationTime().AsTime().Before(begin) {
				t.Fatal(s)
			}
			if g := must[*spec.GetSnapshotResponse](t)(r.ctrl.GetSnapshot(r.ctx(), &spec.GetSnapshotRequest{SnapshotId: s.GetSnapshotId()})).GetSnapshot(); g.String() != s.String() {
				t.Fatal(g, s)
			}
			source := ofSnapshot(s.GetSnapshotId())
			a := r.copyOf("a", c, source, size)
			if again := r.copyOf("a", c, source, size); again.String() != a.String() || a.GetCapacityBytes() != size ||
				a.GetContentSource().GetSnapshot().GetSnapshotId() != s.GetSnapshotId() || a.GetVolumeContext()["keyVolume"] != v.id {
				t.Fatal(a, again)
			}
			_, err := r.ctrl.CreateVolume(r.ctx(), &spec.CreateVolumeRequest{Name: "a", VolumeCapabilities: []*spec.VolumeCapability{c}, CapacityRange: &spec.CapacityRange{RequiredBytes: size}})
			wantCode(t, err, codes.AlreadyExists)
			// The key of a clone of a copy is still the key of the first volume.
			b := r.copyOf("b", c, ofVolume(a.GetVolumeId()), 2*size)
			if b.GetVolumeContext()["keyVolume"] != v.id || b.GetCapacityBytes() != 2*size || b.GetContentSource().GetVolume().GetVolumeId() != a.GetVolumeId() {
				t.Fatal(b)
			}
			val := must[*spec.ValidateVolumeCapabilitiesResponse](t)(r.ctrl.ValidateVolumeCapabilities(r.ctx(), &spec.ValidateVolumeCapabilitiesRequest{VolumeId: b.GetVolumeId(), VolumeContext: b.GetVolumeContext(), VolumeCapabilities: []*spec.VolumeCapability{c}}))
			if val.GetConfirmed() == nil {
				t.Fatal(val)
			}
			// Stage and publish accept this context.
			bv := &vol{r: r, id: b.GetVolumeId(), context: b.GetVolumeContext(), cap: c, secrets: map[string]string{"kek": kek}}
			bv.up()
			wantCode(t, bv.publishTo("b"), codes.OK)
			bv.drop("b")
			for range 2 {
				_, err = r.ctrl.DeleteSnapshot(r.ctx(), &spec.DeleteSnapshotRequest{SnapshotId: s.GetSnapshotId()})
				wantCode(t, err, codes.OK)
			}
			if again := r.copyOf("a", c, source, size); again.GetVolumeId() != a.GetVolumeId() { // a late retry
				t.Fatal(again)
			}
			(&vol{r: r, id: a.GetVolumeId()}).drop()
			v.drop()
		})
	}
}

func TestListSnapshots(t *testing.T) {
	r := newRig(t)
	v, w := r.create("v", writer), r.create("w", writer)
	made := map[string]string{}
	for i := range 5 {
		of := v
		if i > 2 {
			of = w
		}
		made[r.snapshot(fmt.Sprint("s", i), of.id).GetSnapshotId()] = of.id
	}
	all := func(q *spec.ListSnapshotsRequest) (found []string) {
		t.Helper()
		for {
			l := must[*spec.ListSnapshotsResponse](t)(r.ctrl.ListSnapshots(r.ctx(), q))
			for _, e := range l.GetEntries() {
				if made[e.GetSnapshot().GetSnapshotId()] != e.GetSnapshot().GetSourceVolumeId() {
					t.Fatal(e)
				}
				found = append(found, e.GetSnapshot().GetSnapshotId())
			}
			if q.StartingToken = l.GetNextToken(); q.StartingToken == "" {
				return found
			}
		}
	}
	one := all(&spec.ListSnapshotsRequest{MaxEntries: 1, SourceVolumeId: w.id})
	for want, got := range map[int]int{5: len(all(&spec.ListSnapshotsRequest{MaxEntries: 2})), 2: len(one), 1: len(all(&spec.ListSnapshotsRequest{SnapshotId: one[0], SourceVolumeId: w.id})),
		0: len(all(&spec.ListSnapshotsRequest{SnapshotId: one[0], SourceVolumeId: v.id}))} {
		if got != want {
			t.Errorf("%d instead of %d", got, want)
		}
	}
	for _, x := range []*vol{v, w} {
		x.drop()
	}
}
