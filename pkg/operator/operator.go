package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

// DriverName is the name of the CSI driver whose volumes get keys. It equals csi.DriverName.
const DriverName = "csi.sealvol.dev"

// topologyKey is the topology key of the local backend. Its value is the name of the node that has
// the volume. It equals local.TopologyKey.
const topologyKey = "topology.csi.sealvol.dev/node"

// These parameters of a StorageClass name the node stage Secret. secretOfVolume is the value for
// classes whose keys the operator creates.
const (
	paramSecretName      = "csi.storage.k8s.io/node-stage-secret-name"
	paramSecretNamespace = "csi.storage.k8s.io/node-stage-secret-namespace"
	secretOfVolume       = "${pv.name}"
)

// attributeKeyVolume in a volume's context is the handle of the volume whose key opens it
// (docs/csi.md).
const attributeKeyVolume = "keyVolume"

// Options configure Add.
type Options struct {
	// Namespace is the namespace of key Secrets and delivery Secrets.
	Namespace string
	// Snapshots tells that the cluster has the snapshot API. Then a key is kept while a snapshot
	// needs it.
	Snapshots bool
	// Attachments tells that volumes move between nodes, and that a VolumeAttachment names the node
	// of a volume (attachment.go). Otherwise, its node affinity does, and never changes.
	Attachments bool
	// MaxKeys is the maximum number of key Secrets for the VolumeKeys of one namespace. 0 means no
	// limit.
	MaxKeys int
	// Workers is the number of concurrent reconciliations of each controller. Default: 4.
	Workers int
	// Log receives what cannot be reported as a condition or event of an object. Default:
	// slog.Default.
	Log *slog.Logger
}

// Scheme returns a scheme with all types that the operator uses.
func Scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	return s, errors.Join(scheme.AddToScheme(s), v1alpha1.AddToScheme(s), snapshotv1.AddToScheme(s))
}

// Cache returns the cache options that the manager needs. The cache holds the Secrets of one
// namespace only, because the operator may not read others.
func Cache(namespace string) cache.Options {
	secret := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}}
	return cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			secret: {Namespaces: map[string]cache.Config{namespace: {}}},
		},
	}
}

// operator is the state that the controllers share.
type operator struct {
	client.Client // reads from the cache, writes to the API server
	Options
	live    client.Reader // reads from the API server, not from the cache
	events  events.EventRecorder
	seen    fingerprints
	pending pendingSecrets
	// retained maps names of PersistentVolumes whose last known reclaim policy is Retain to their
	// places. A PersistentVolume may be deleted before its SealedVolume has recorded that policy.
	retained sync.Map
}

// place identifies a volume: its handle and, unless volumes move, its node.
type place struct{ handle, node string }

// placeOf returns the place of a volume. It ignores the node if volumes move.
func (o *operator) placeOf(handle, node string) place {
	if o.Attachments {
		node = ""
	}
	return place{handle, node}
}

// Add adds the controllers to a manager.
func Add(ctx context.Context, m ctrl.Manager, opt Options) error {
	if opt.Namespace == "" {
		return errors.New("Options.Namespace is empty")
	}
	if opt.Workers == 0 {
		opt.Workers = 4
	}
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	o := &operator{Client: m.GetClient(), Options: opt, live: m.GetAPIReader(), events: m.GetEventRecorder("sealvol-operator")}
	if err := o.index(ctx, m.GetFieldIndexer()); err != nil {
		return fmt.Errorf("create indexes: %w", err)
	}
	err := errors.Join(o.addVolumes(m), o.addKeys(m), o.addKeySecrets(m), o.addMetrics(m))
	if !o.Attachments { // volumes that move can be copied on any node
		err = errors.Join(err, o.addPlacement(m))
	}
	return err
}

// volumeName returns the name of the PersistentVolume that a claim has or will get from
// csi-provisioner.
func volumeName(c *corev1.PersistentVolumeClaim) string {
	if c.Spec.VolumeName != "" {
		return c.Spec.VolumeName
	}
	return "pvc-" + string(c.UID)
}

// isOurs tells whether a PersistentVolume is a volume of our driver.
func isOurs(v *corev1.PersistentVolume) bool {
	return v.Spec.CSI != nil && v.Spec.CSI.Driver == DriverName
}

// isManaged tells whether the volumes of a class get their keys from this operator.
func (o *operator) isManaged(c *storagev1.StorageClass) bool {
	return c.Provisioner == DriverName && c.Parameters[paramSecretName] == secretOfVolume && c.Parameters[paramSecretNamespace] == o.Namespace
}

// isDelivered tells whether a volume is staged with its delivery Secret.
func (o *operator) isDelivered(v *corev1.PersistentVolume) bool {
	r := v.Spec.CSI.NodeStageSecretRef
	return r != nil && r.Namespace == o.Namespace && r.Name == v.Name
}

// source returns the kind and name of the claim or snapshot in the same namespace that a claim is
// a copy of. The kind is "Other" for all other sources. For a source in another namespace, the
// provisioner checks the ReferenceGrant, and the volume's context names the origin.
func source(c *corev1.PersistentVolumeClaim) (kind, name string) {
	if r := c.Spec.DataSourceRef; r != nil {
		if r.Namespace != nil && *r.Namespace != "" && *r.Namespace != c.Namespace {
			return "Other", r.Name
		}
		return sourceKind(r.APIGroup, r.Kind), r.Name
	}
	if r := c.Spec.DataSource; r != nil {
		return sourceKind(r.APIGroup, r.Kind), r.Name
	}
	return "", ""
}

func sourceKind(group *string, kind string) string {
	switch {
	case kind == "PersistentVolumeClaim" && (group == nil || *group == ""):
		return kind
	case kind == "VolumeSnapshot" && group != nil && *group == snapshotv1.GroupName:
		return kind
	}
	return "Other"
}

func sourceKey(c *corev1.PersistentVolumeClaim) string {
	kind, name := source(c)
	if kind == "" || kind == "Other" {
		return ""
	}
	return strings.Join([]string{kind, c.Namespace, name}, "/")
}

func contentName(s *snapshotv1.VolumeSnapshot) string {
	if s.Status == nil || s.Status.BoundVolumeSnapshotContentName == nil {
		return ""
	}
	return *s.Status.BoundVolumeSnapshotContentName
}

// sourceHandle returns the handle of the volume that a snapshot was taken of, or "" if it is
// unknown.
func sourceHandle(c *snapshotv1.VolumeSnapshotContent) string {
	if c.Spec.Driver != DriverName || c.Spec.Source.VolumeHandle == nil {
		return ""
	}
	return *c.Spec.Source.VolumeHandle
}

// anyVolume stands for the unknown source of a snapshot, which may be any volume. No handle has
// this value.
const anyVolume = "?"

// snapshotOf is like sourceHandle, but also covers contents that were created by hand. For these,
// it returns anyVolume until the source is known.
func snapshotOf(c *snapshotv1.VolumeSnapshotContent) string {
	if h := sourceHandle(c); h != "" || c.Spec.Driver != DriverName {
		return h
	}
	return cmp.Or(c.Annotations[v1alpha1.SourceAnnotation], anyVolume)
}

// hasKey tells whether a volume's key has been chosen and created.
func hasKey(v *v1alpha1.SealedVolume) bool { return v.Spec.Key != nil && v.Spec.Key.SecretName != "" }

// isTerminating tells whether a namespace is being deleted or is gone.
func (o *operator) isTerminating(ctx context.Context, name string) (bool, error) {
	var ns corev1.Namespace
	err := o.live.Get(ctx, types.NamespacedName{Name: name}, &ns)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("get namespace %s: %w", name, err)
	}
	return ns.DeletionTimestamp != nil, nil
}

// raceDelay gives the cache time to receive the write that won a race.
const raceDelay = 100 * time.Millisecond

// requeueOnConflict retries after a conflict with another writer. Such conflicts are normal, so
// they are not reported as errors.
func requeueOnConflict(r reconcile.Result, err error) (reconcile.Result, error) {
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || errors.Is(err, errStale) {
		return reconcile.Result{RequeueAfter: raceDelay}, nil
	}
	return r, err
}
