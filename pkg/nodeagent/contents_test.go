package nodeagent_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/nodeagent"
)

const managedBy = "snapshot.storage.kubernetes.io/managed-by"

func contentOf(t *testing.T, name, driver, handle string, labels map[string]string) *snapshotv1.VolumeSnapshotContent {
	t.Helper()
	o := &snapshotv1.VolumeSnapshotContent{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: snapshotv1.VolumeSnapshotContentSpec{
		Driver: driver, DeletionPolicy: snapshotv1.VolumeSnapshotContentRetain, Source: snapshotv1.VolumeSnapshotContentSource{SnapshotHandle: &handle},
		VolumeSnapshotRef: corev1.ObjectReference{Namespace: "default", Name: name}}}
	if err := env.Client.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Client.Delete(context.Background(), o); err != nil {
			t.Error(err)
		}
	})
	return o
}

// TestContents: a node, with the rights of the chart, claims only the contents whose snapshots it
// has and that no other node has claimed.
func TestContents(t *testing.T) {
	config, err := env.As(t.Context(), "node", "node-1")
	if err != nil {
		t.Fatal(err)
	}
	before := contentOf(t, "before", "csi.sealvol.dev", "ls-here", nil)
	elsewhere := contentOf(t, "elsewhere", "csi.sealvol.dev", "ls-elsewhere", nil)
	taken := contentOf(t, "taken", "csi.sealvol.dev", "ls-here", map[string]string{managedBy: "node-2"})
	foreign := contentOf(t, "foreign", "another.driver", "ls-here", nil)
	failed := false
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	c := nodeagent.Contents{Node: "node-1", Driver: "csi.sealvol.dev", Config: config, Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
		Source: func(_ context.Context, handle string) (string, error) {
			if handle == "ls-flaky" && !failed {
				failed = true
				return "", errors.New("not now")
			}
			if handle == "ls-here" || handle == "ls-flaky" {
				return "vol-1", nil
			}
			return "", nil
		}}
	go func() { done <- c.Run(ctx) }()
	after := contentOf(t, "after", "csi.sealvol.dev", "ls-flaky", nil)
	for _, o := range []*snapshotv1.VolumeSnapshotContent{before, after} {
		label(t, o, "node-1")
		if got := o.Annotations[v1alpha1.SourceAnnotation]; got != "vol-1" {
			t.Errorf("%s is said to be of volume %q", o.Name, got)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	label(t, elsewhere, "")
	label(t, taken, "node-2")
	label(t, foreign, "")
}

// TestContentsAnywhere: if snapshots are not on nodes, no contents are claimed, but their source
// volumes are recorded.
func TestContentsAnywhere(t *testing.T) {
	mine := contentOf(t, "anywhere", "csi.sealvol.dev", "snap-1", map[string]string{managedBy: "node-2"}) // set by the snapshot controller
	foreign := contentOf(t, "anywhere-foreign", "another.driver", "snap-1", nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	c := nodeagent.Contents{Driver: "csi.sealvol.dev", Config: env.Config, Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
		Source: func(_ context.Context, handle string) (string, error) { return "vol-of-" + handle, nil }}
	go func() { done <- c.Run(ctx) }()
	after := contentOf(t, "anywhere-after", "csi.sealvol.dev", "snap-2", nil)
	for o, want := range map[*snapshotv1.VolumeSnapshotContent]string{mine: "vol-of-snap-1", after: "vol-of-snap-2"} {
		tick := time.NewTicker(25 * time.Millisecond)
		defer tick.Stop()
		end := time.After(30 * time.Second)
		for o.Annotations[v1alpha1.SourceAnnotation] != want {
			select {
			case <-tick.C:
			case <-end:
				t.Fatalf("%s: %v", o.Name, o.Annotations)
			}
			if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
				t.Fatal(err)
			}
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	label(t, mine, "node-2")
	label(t, after, "")
	if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(foreign), foreign); err != nil || len(foreign.Annotations) > 0 {
		t.Error(foreign.Annotations, err)
	}
}

func label(t *testing.T, o *snapshotv1.VolumeSnapshotContent, want string) {
	t.Helper()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	end := time.After(30 * time.Second)
	for {
		err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o)
		if err == nil && o.Labels[managedBy] == want {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatal(fmt.Errorf("%s: label %q, want %q: %w", o.Name, o.Labels[managedBy], want, err))
		}
	}
}
