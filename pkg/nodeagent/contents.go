package nodeagent

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

// managedBy on a VolumeSnapshotContent names the node whose csi-snapshotter handles it. The
// snapshot controller sets it for snapshots that it creates, but not for contents that were created
// by hand for an existing snapshot.
const managedBy = "snapshot.storage.kubernetes.io/managed-by"

// Contents sets this label on such contents for the node that has the snapshot, if each snapshot is
// on one node. It watches only contents without the label. It also records the source volume of
// each content, because the key of that volume is needed as long as the content exists. Without a
// Node it only does that.
type Contents struct {
	Node, Driver string
	Config       *rest.Config
	// Source returns the volume that a snapshot was made of, if the snapshot is on this node or is
	// known at all; otherwise "".
	Source func(ctx context.Context, handle string) (string, error)
	// Log gets what cannot be claimed. Default: slog.Default.
	Log *slog.Logger
}

type contentQueue = workqueue.TypedRateLimitingInterface[string]

// Run claims contents until ctx ends.
func (c Contents) Run(ctx context.Context) error {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	reader, writer, err := c.clients()
	if err != nil {
		return fmt.Errorf("claim snapshots: %w", err)
	}
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](time.Second, 5*time.Minute))
	inf, err := reader.GetInformer(ctx, &snapshotv1.VolumeSnapshotContent{}, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("claim snapshots: %w", err)
	}
	if _, err := inf.AddEventHandler(c.enqueue(queue)); err != nil {
		return fmt.Errorf("claim snapshots: %w", err)
	}
	stop := context.AfterFunc(ctx, queue.ShutDown)
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			name, ended := queue.Get()
			if ended {
				return
			}
			c.next(ctx, queue, name, reader, writer)
		}
	}()
	err = reader.Start(ctx)
	queue.ShutDown()
	<-done
	return err
}

// clients returns a cache of the contents that belong to no node, and a client.
func (c Contents) clients() (cache.Cache, client.Client, error) {
	s := runtime.NewScheme()
	if err := snapshotv1.AddToScheme(s); err != nil {
		return nil, nil, err
	}
	nobodys := labels.NewSelector()
	if c.Node != "" {
		r, err := labels.NewRequirement(managedBy, selection.DoesNotExist, nil)
		if err != nil {
			return nil, nil, err
		}
		nobodys = nobodys.Add(*r)
	}
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(snapshotv1.SchemeGroupVersion.WithKind("VolumeSnapshotContent"), meta.RESTScopeRoot)
	reader, err := cache.New(c.Config, cache.Options{Scheme: s, Mapper: mapper, DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{&snapshotv1.VolumeSnapshotContent{}: {Label: nobodys}}})
	if err != nil {
		return nil, nil, err
	}
	writer, err := client.New(c.Config, client.Options{Scheme: s, Mapper: mapper})
	return reader, writer, err
}

func (c Contents) enqueue(queue contentQueue) toolscache.ResourceEventHandler {
	add := func(obj any) {
		if o, ok := obj.(*snapshotv1.VolumeSnapshotContent); ok && o.Spec.Driver == c.Driver && o.Spec.Source.SnapshotHandle != nil && (c.Node != "" || o.Annotations[v1alpha1.SourceAnnotation] == "") {
			queue.Add(o.Name)
		}
	}
	return toolscache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, obj any) { add(obj) }}
}

func (c Contents) next(ctx context.Context, queue contentQueue, name string, reader client.Reader, writer client.Writer) {
	defer queue.Done(name)
	err := c.claim(ctx, name, reader, writer)
	if err == nil || ctx.Err() != nil {
		queue.Forget(name)
		return
	}
	c.Log.Warn("cannot claim the VolumeSnapshotContent", "content", name, "error", err)
	queue.AddRateLimited(name)
}

// claim labels and annotates a content whose snapshot is on this node. Optimistic locking keeps it
// from overwriting another node's label.
func (c Contents) claim(ctx context.Context, name string, reader client.Reader, writer client.Writer) error {
	var o snapshotv1.VolumeSnapshotContent
	if err := reader.Get(ctx, client.ObjectKey{Name: name}, &o); err != nil || o.DeletionTimestamp != nil {
		return client.IgnoreNotFound(err)
	}
	source, err := c.Source(ctx, *o.Spec.Source.SnapshotHandle)
	if source == "" || err != nil {
		return err
	}
	was := o.DeepCopy()
	if c.Node != "" {
		metav1.SetMetaDataLabel(&o.ObjectMeta, managedBy, c.Node)
	}
	metav1.SetMetaDataAnnotation(&o.ObjectMeta, v1alpha1.SourceAnnotation, source) // the key of this volume is needed
	err = writer.Patch(ctx, &o, client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{}))
	if err = client.IgnoreNotFound(err); err != nil {
		return fmt.Errorf("update VolumeSnapshotContent: %w", err)
	}
	c.Log.Info("VolumeSnapshotContent claimed", "content", name)
	return nil
}
