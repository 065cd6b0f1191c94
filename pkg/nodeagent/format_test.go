package nodeagent_test

import (
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/nodeagent"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

func wantFormat(t *testing.T, a *nodeagent.Agent, id string, want backend.FormatState) {
	t.Helper()
	if got, err := a.FormatState(t.Context(), id); got != want || err != nil {
		t.Fatalf("%q, %v, want %q", got, err, want)
	}
}

// TestFormat: only the node that has a volume records its format state in the SealedVolume, once
// the SealedVolume belongs to the node. The state never goes back. The state of a volume that the
// API does not know is unknown.
func TestFormat(t *testing.T) {
	_, a := start(t, "node-a", moves)
	_, b := start(t, "node-b", moves)
	sv := sealed(t, "")
	id := sv.Spec.VolumeHandle
	if s, err := a.FormatState(t.Context(), "vol-unknown"); err == nil {
		t.Errorf("of an unknown volume: %q", s)
	}
	wantFormat(t, a, id, backend.FormatNone)
	kept := make(chan error, 1)
	go func() { kept <- a.KeepFormat(t.Context(), id, backend.FormatBegun) }() // the operator has not assigned it yet
	attach(t, sv, "node-a")
	if err := <-kept; err != nil {
		t.Fatal(err)
	}
	wantFormat(t, b, id, backend.FormatBegun)
	for _, s := range []backend.FormatState{backend.FormatDone, backend.FormatBegun, backend.FormatDone} {
		if err := a.KeepFormat(t.Context(), id, s); err != nil {
			t.Fatal(err)
		}
		wantFormat(t, b, id, backend.FormatDone)
	}
	if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(sv), sv); err != nil || sv.Status.Format.State != v1alpha1.FormatFormatted || sv.Status.Format.Time.IsZero() {
		t.Fatal(sv.Status.Format, err)
	}
	// The name of the PersistentVolume does not matter: a retained one counts, too.
	patch := client.MergeFrom(sv.DeepCopy())
	sv.Status.Phase = v1alpha1.PhaseRetained
	if err := env.Client.Status().Patch(t.Context(), sv, patch); err != nil {
		t.Fatal(err)
	}
	again := &v1alpha1.SealedVolume{Spec: v1alpha1.SealedVolumeSpec{VolumeHandle: id, NodeName: "node-a"}}
	again.GenerateName = "pvc-"
	if err := env.Client.Create(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	wantFormat(t, a, id, backend.FormatDone)
}

// TestFormatOfOlder: a volume that an earlier version formatted is recorded as formatted at its
// next check. A volume with an anchor counts as formatted.
func TestFormatOfOlder(t *testing.T) {
	n, a := start(t, "node-a")
	sv := sealed(t, "node-a")
	id := sv.Spec.VolumeHandle
	dev := device.NewMem(80 << 20)
	if err := volume.Format(dev, volume.FormatOptions{Recipient: credential(t).Recipient}); err != nil {
		t.Fatal(err)
	}
	_, end := n.serve(t, dev, id, nil)
	defer end()
	a.Staged(id)
	await(t, sv, "kept", func(s v1alpha1.SealedVolumeStatus) bool {
		return s.Format != nil && s.Format.State == v1alpha1.FormatFormatted && s.Anchor != nil
	})
	old := sealed(t, "node-a")
	patch := client.MergeFrom(old.DeepCopy())
	old.Status.Anchor = sv.Status.Anchor
	if err := env.Client.Status().Patch(t.Context(), old, patch); err != nil {
		t.Fatal(err)
	}
	wantFormat(t, a, old.Spec.VolumeHandle, backend.FormatDone)
	end()
}
