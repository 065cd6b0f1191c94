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

// DriverName is the CSI driver whose volumes get keys; csi.DriverName says the same.
const DriverName = "csi.sealvol.dev"

// topologyKey names the node that a volume of the local backend lies on; local.TopologyKey says the same.
const topologyKey = "topology.csi.sealvol.dev/node"

// Parameters of a StorageClass that say which Secret stages a volume, and what they are for a class whose keys the operator makes.
const (
	paramSecretName      = "csi.storage.k8s.io/node-stage-secret-name"
	paramSecretNamespace = "csi.storage.k8s.io/node-stage-secret-namespace"
	secretOfVolume       = "${pv.name}"
)

// attributeKeyVolume in a volume's context is the volume whose key opens it; docs/csi.md.
const attributeKeyVolume = "keyVolume"

// Options configure Add.
type Options struct {
	// Namespace is where key Secrets and delivery Secrets lie.
	Namespace string
	// Snapshots says that the cluster has the snapshot API: a snapshot keeps its key from being deleted.
	Snapshots bool
	// Attachments says that volumes move: a volume is where a VolumeAttachment says (attachment.go). Without, it is where its node affinity says, for ever.
	Attachments bool
	// MaxKeys is how many key Secrets may be kept for the VolumeKeys of one namespace; 0: any number.
	MaxKeys int
	// Workers reconcile volumes and keys at a time. Default 4.
	Workers int
	// Log is for what is no object's business. Default: slog.Default.
	Log *slog.Logger
}

// Scheme has all types that the operator uses.
func Scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	return s, errors.Join(scheme.AddToScheme(s), v1alpha1.AddToScheme(s), snapshotv1.AddToScheme(s))
}

// Cache is how a manager must be set up: of Secrets it sees those of one namespace, since the operator may see no others.
func Cache(namespace string) cache.Options {
	secret := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}}
	return cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			secret: {Namespaces: map[string]cache.Config{namespace: {}}},
		},
	}
}

// operator is what the controllers share.
type operator struct {
	client.Client // reads from the cache, writes to the API server
	Options
	live   client.Reader // the API server itself
	events events.EventRecorder
	seen   fingerprints
	making making
	// retained has the places of PersistentVolumes, by name, that were last seen with the reclaim policy Retain: they may be gone before their SealedVolumes say so.
	retained sync.Map
}

// place is what a PersistentVolume says that it is, and where.
type place struct{ handle, node string }

// placeOf is without the node where volumes move.
func (o *operator) placeOf(handle, node string) place {
	if o.Attachments {
		node = ""
	}
	return place{handle, node}
}

// Add adds the controllers to a manager.
func Add(ctx context.Context, m ctrl.Manager, opt Options) error {
	if opt.Namespace == "" {
		return errors.New("the operator needs to know its namespace")
	}
	if opt.Workers == 0 {
		opt.Workers = 4
	}
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	o := &operator{Client: m.GetClient(), Options: opt, live: m.GetAPIReader(), events: m.GetEventRecorder("sealvol-operator")}
	if err := o.index(ctx, m.GetFieldIndexer()); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	err := errors.Join(o.addVolumes(m), o.addKeys(m), o.addKeySecrets(m), o.addMetrics(m))
	if !o.Attachments { // what moves can be copied anywhere
		err = errors.Join(err, o.addPlacement(m))
	}
	return err
}

// volumeName is the name of the PersistentVolume that a claim has, or that csi-provisioner will give it.
func volumeName(c *corev1.PersistentVolumeClaim) string {
	if c.Spec.VolumeName != "" {
		return c.Spec.VolumeName
	}
	return "pvc-" + string(c.UID)
}

// isOurs tells volumes of our driver.
func isOurs(v *corev1.PersistentVolume) bool {
	return v.Spec.CSI != nil && v.Spec.CSI.Driver == DriverName
}

// isManaged tells classes whose volumes get their keys from this operator.
func (o *operator) isManaged(c *storagev1.StorageClass) bool {
	return c.Provisioner == DriverName && c.Parameters[paramSecretName] == secretOfVolume && c.Parameters[paramSecretNamespace] == o.Namespace
}

// isDelivered tells volumes that are staged with a Secret of this operator.
func (o *operator) isDelivered(v *corev1.PersistentVolume) bool {
	r := v.Spec.CSI.NodeStageSecretRef
	return r != nil && r.Namespace == o.Namespace && r.Name == v.Name
}

// source is what a claim is a copy of: a claim or a snapshot of its own namespace. Other namespaces need a grant, which the provisioner checks; the volume's context
// then names the origin.
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

// sourceHandle is the volume that a snapshot was taken of.
func sourceHandle(c *snapshotv1.VolumeSnapshotContent) string {
	if c.Spec.Driver != DriverName || c.Spec.Source.VolumeHandle == nil {
		return ""
	}
	return *c.Spec.Source.VolumeHandle
}

// ofAny is the source of a snapshot of which nobody has said yet what it is of. It may be of any volume. No handle is like that.
const ofAny = "?"

// snapshotOf is the same also of a snapshot whose content was made by hand: ofAny until that is known.
func snapshotOf(c *snapshotv1.VolumeSnapshotContent) string {
	if h := sourceHandle(c); h != "" || c.Spec.Driver != DriverName {
		return h
	}
	return cmp.Or(c.Annotations[v1alpha1.SourceAnnotation], ofAny)
}

// hasKey tells whether a volume's key is settled and was made.
func hasKey(v *v1alpha1.SealedVolume) bool { return v.Spec.Key != nil && v.Spec.Key.SecretName != "" }

// isTerminating tells whether a namespace goes, or has gone.
func (o *operator) isTerminating(ctx context.Context, name string) (bool, error) {
	var ns corev1.Namespace
	err := o.live.Get(ctx, types.NamespacedName{Name: name}, &ns)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("namespace %s: %w", name, err)
	}
	return ns.DeletionTimestamp != nil, nil
}

// raceDelay lets the cache catch up with who was faster.
const raceDelay = 100 * time.Millisecond

// again repeats what lost a race with somebody else's write, quietly: it is how two writers meet, and no error.
func again(r reconcile.Result, err error) (reconcile.Result, error) {
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || errors.Is(err, errStale) {
		return reconcile.Result{RequeueAfter: raceDelay}, nil
	}
	return r, err
}
