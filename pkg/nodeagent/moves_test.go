package nodeagent_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/nodeagent"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func moves(o *nodeagent.Options) { o.Attachments = true }

// attach records that a node has a volume, like the operator.
func attach(t *testing.T, sv *v1alpha1.SealedVolume, node string) {
	t.Helper()
	patch := client.MergeFrom(sv.DeepCopy())
	sv.Spec.NodeName = node
	if err := env.Client.Patch(t.Context(), sv, patch); err != nil {
		t.Fatal(err)
	}
}

// mkdir creates a directory durably.
func mkdir(t *testing.T, v *volume.Volume, name string) {
	t.Helper()
	if _, err := v.Mkdir(&vfs.Req{}, vfs.RootIno, name, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := v.Sync(vfs.RootIno); err != nil {
		t.Fatal(err)
	}
}

// TestMoves: when a volume moves, the next node opens it with the anchor of the previous one, even
// before the operator has recorded the move, and refuses an older device. The lost node reports
// nothing about it any more, although it still has it mounted and keeps writing to what it
// considers the device.
func TestMoves(t *testing.T) {
	na, a := start(t, "node-a", moves)
	nb, b := start(t, "node-b", moves)
	sv := sealed(t, "")
	id := sv.Spec.VolumeHandle
	dev := device.NewMem(80 << 20)
	if err := volume.Format(dev, volume.FormatOptions{Recipient: credential(t).Recipient}); err != nil {
		t.Fatal(err)
	}
	if x := anchorOf(t, a, id); x != nil {
		t.Fatalf("an anchor of a volume that was never mounted: %+v", x)
	}
	v, end := na.serve(t, dev, id, nil)
	defer end()
	a.Staged(id)
	attach(t, sv, "node-a") // later than the kubelet has used it
	await(t, sv, "on the first node", func(s v1alpha1.SealedVolumeStatus) bool { return s.Node == "node-a" && healthy(s) && s.Anchor != nil })
	old := dev.Clone()
	first := sv.Status.Anchor.Generation
	mkdir(t, v, "directory")
	await(t, sv, "written to", func(s v1alpha1.SealedVolumeStatus) bool { return s.Anchor.Generation > first })

	// The first node is lost with the volume mounted.
	moved := dev.Clone()
	attach(t, sv, "")
	x := anchorOf(t, b, id)
	if x == nil || int64(x.Generation) < sv.Status.Anchor.Generation {
		t.Fatalf("the anchor has not followed: %+v", x)
	}
	if _, err := volume.Open(old, volume.Options{Credential: credential(t).Credential, Anchor: x}); !errors.Is(err, volume.ErrRolledBack) {
		t.Fatalf("an older state: %v", err)
	}
	w, endB := nb.serve(t, moved, id, x)
	defer endB()
	b.Staged(id)
	attach(t, sv, "node-b")
	await(t, sv, "on the second node", func(s v1alpha1.SealedVolumeStatus) bool { return s.Node == "node-b" && healthy(s) })
	for i := range 20 {
		mkdir(t, v, fmt.Sprint("lost-", i))
	}
	mkdir(t, w, "kept")
	last := sv.Status.Anchor.Generation
	await(t, sv, "written to on the second node", func(s v1alpha1.SealedVolumeStatus) bool { return s.Anchor.Generation > last })

	// The first node is back and releases what it has.
	a.Unstaging(t.Context(), id)
	end()
	a.Unstaged(id)
	mkdir(t, w, "kept, too")
	last = sv.Status.Anchor.Generation
	await(t, sv, "as before", func(s v1alpha1.SealedVolumeStatus) bool { return s.Node == "node-b" && s.Anchor.Generation > last })
	b.Unstaging(t.Context(), id)
	endB()
	b.Unstaged(id)
	await(t, sv, "unstaged", func(s v1alpha1.SealedVolumeStatus) bool { return s.Node == "" })

	// It gets the volume again: nothing that it remembers counts.
	x = anchorOf(t, a, id)
	_, end = na.serve(t, moved, id, x)
	defer end()
	attach(t, sv, "node-a")
	a.Staged(id)
	last = sv.Status.Anchor.Generation
	await(t, sv, "on the first node again", func(s v1alpha1.SealedVolumeStatus) bool { return s.Node == "node-a" && s.Anchor.Generation > last })
	if _, err := volume.Open(moved.Clone(), volume.Options{Credential: credential(t).Credential, Anchor: anchorOf(t, b, id)}); err != nil {
		t.Errorf("the anchor is none of this volume: %v", err)
	}
}

// TestTwoNames: if a volume gets a second PersistentVolume while the first still exists, the newest
// anchor of both counts. The volume has forgotten the older one, and would be refused because of
// it.
func TestTwoNames(t *testing.T) {
	_, a := start(t, "node-a", moves)
	first := sealed(t, "")
	generation := int64(0)
	for _, name := range []string{"a-" + first.Name, "z-" + first.Name} {
		for _, sv := range []*v1alpha1.SealedVolume{first, {ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: first.Spec}} {
			if sv != first {
				if err := env.Client.Create(t.Context(), sv); err != nil {
					t.Fatal(err)
				}
			}
			patch := client.MergeFrom(sv.DeepCopy())
			generation += 5
			id := "00000000-0000-4000-8000-000000000001"
			sv.Status.Anchor = &v1alpha1.Anchor{Volume: id, Instance: id, Generation: generation, Epoch: 1, MAC: strings.Repeat("a", 64)}
			if err := env.Client.Status().Patch(t.Context(), sv, patch); err != nil {
				t.Fatal(err)
			}
			if x := anchorOf(t, a, first.Spec.VolumeHandle); x == nil || x.Generation != uint64(generation) {
				t.Errorf("after %d of %s: %+v", generation, sv.Name, x)
			}
		}
	}
}
