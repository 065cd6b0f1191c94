package operator

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

// notedAtOnce is how many volumes NoteUninstall writes concurrently. The hook has a deadline, and a
// cluster may have thousands of volumes in use.
const notedAtOnce = 16

// NoteUninstall records in the status of all volumes that were in use when Sealvol was uninstalled
// that nobody watches them any more, and writes an event about each of their claims. Otherwise, the
// last reported health would look current. It returns the number of these volumes, and an error that
// names the first volume of each page that it could not write. c reads without a cache.
func NoteUninstall(ctx context.Context, c client.Client) (count int, err error) {
	var page v1alpha1.SealedVolumeList
	var errs []error
	for {
		err := c.List(ctx, &page, client.Limit(pageSize), client.Continue(page.Continue))
		if meta.IsNoMatchError(err) {
			break // the CRDs are gone
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("list SealedVolumes: %w", err))
			break
		}
		noted, err := notePage(ctx, c, page.Items)
		count += noted
		errs = append(errs, err)
		if page.Continue == "" {
			break
		}
	}
	return count, errors.Join(errs...)
}

// notePage writes the status of some volumes. It tries all of them and returns the first error.
func notePage(ctx context.Context, c client.Client, list []v1alpha1.SealedVolume) (int, error) {
	var count atomic.Int64
	var g errgroup.Group // without a context: an error must not keep others from being written
	g.SetLimit(notedAtOnce)
	for i := range list {
		g.Go(func() error {
			noted, err := noteUninstalled(ctx, c, &list[i])
			if noted {
				count.Add(1)
			}
			return err
		})
	}
	err := g.Wait()
	return int(count.Load()), err
}

// noteUninstalled writes the status of one volume, if it is in use and this was not done before.
func noteUninstalled(ctx context.Context, c client.Client, v *v1alpha1.SealedVolume) (noted bool, err error) {
	key := client.ObjectKeyFromObject(v)
	message := ""
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		s := &v.Status
		was := meta.FindStatusCondition(s.Conditions, v1alpha1.VolumeHealthy)
		if !isStaged(v) || was != nil && was.Reason == v1alpha1.ReasonUninstalled {
			noted = false
			return nil
		}
		before := v.DeepCopy()
		message = fmt.Sprintf("Sealvol was uninstalled while the volume was in use on node %s, so nobody watches it any more, and its pods get "+
			"I/O errors (\"Transport endpoint is not connected\"). Install Sealvol again, then restart the pods", s.Node)
		known := metav1.ConditionUnknown
		message += lastReported(s.Health, was)
		if s.Health == v1alpha1.HealthDataLoss { // lost data stays lost
			known = metav1.ConditionFalse
		} else {
			s.Health = v1alpha1.HealthUnknown
		}
		meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: v1alpha1.VolumeHealthy, Status: known,
			Reason: v1alpha1.ReasonUninstalled, Message: limited(message), ObservedGeneration: v.Generation})
		noted = true
		err := c.Status().Patch(ctx, v, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
		if err == nil {
			return nil
		}
		noted = false
		if err := c.Get(ctx, key, v); err != nil { // v still has what was not written, so another round would skip it
			return err
		}
		return err
	})
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("update status of SealedVolume %s: %w", key.Name, err)
	}
	if !noted || v.Spec.ClaimRef == nil {
		return noted, nil
	}
	return true, uninstalledEvent(ctx, c, v, message)
}

// lastReported is the sentence about the health that the note of the uninstallation replaces. c may
// be nil.
func lastReported(h v1alpha1.Health, c *metav1.Condition) string {
	switch {
	case h == "":
		return ""
	case c == nil || c.Status == metav1.ConditionTrue:
		return fmt.Sprintf(". The last reported health was %s", h)
	}
	return fmt.Sprintf(". The last reported health was %s: %s", h, c.Message)
}

// uninstalledEvent creates an event about the claim. It creates it directly, because no process
// with an event recorder runs any more.
func uninstalledEvent(ctx context.Context, c client.Client, v *v1alpha1.SealedVolume, message string) error {
	r := v.Spec.ClaimRef
	e := &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: v.Name + "-", Namespace: r.Namespace},
		EventTime:  metav1.NewMicroTime(time.Now()), ReportingController: DriverName, ReportingInstance: "sealvol-uninstall",
		Type: corev1.EventTypeWarning, Reason: v1alpha1.ReasonUninstalled, Action: "Uninstall", Note: limited("volume " + v.Name + ": " + message),
		Regarding: corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: r.Namespace, Name: r.Name, UID: types.UID(r.UID)},
	}
	if err := c.Create(ctx, e); client.IgnoreNotFound(err) != nil { // its namespace may be gone
		return fmt.Errorf("create event about claim %s/%s: %w", r.Namespace, r.Name, err)
	}
	return nil
}

// UninstallAnnotation on the release's namespace, with the value UninstallConfirmed, lets helm
// uninstall continue while volumes are in use.
const (
	UninstallAnnotation = "sealvol.dev/uninstall"
	UninstallConfirmed  = "confirmed"
)

// IsUninstallConfirmed tells whether a namespace has UninstallAnnotation with the value
// UninstallConfirmed.
func IsUninstallConfirmed(ctx context.Context, c client.Client, namespace string) (bool, error) {
	ns, err := namespaceOf(ctx, c, namespace)
	return err == nil && ns.Annotations[UninstallAnnotation] == UninstallConfirmed, err
}

// DropUninstallConfirmation removes UninstallAnnotation, which applies to one uninstallation only.
func DropUninstallConfirmation(ctx context.Context, c client.Client, namespace string) error {
	ns, err := namespaceOf(ctx, c, namespace)
	if err != nil || ns.Annotations[UninstallAnnotation] == "" {
		return err
	}
	before := ns.DeepCopy()
	delete(ns.Annotations, UninstallAnnotation)
	return c.Patch(ctx, ns, client.MergeFrom(before))
}

// IsInstalled tells whether the cluster has the driver's CSIDriver. helm deletes it before the hook
// of an uninstallation that calls NoteUninstall.
func IsInstalled(ctx context.Context, c client.Client) (bool, error) {
	d := &metav1.PartialObjectMetadata{}
	d.SetGroupVersionKind(storagev1.SchemeGroupVersion.WithKind("CSIDriver"))
	err := c.Get(ctx, client.ObjectKey{Name: DriverName}, d)
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("get CSIDriver %s: %w", DriverName, err)
	}
	return err == nil && d.DeletionTimestamp.IsZero(), nil
}

func namespaceOf(ctx context.Context, c client.Client, name string) (*metav1.PartialObjectMetadata, error) {
	ns := &metav1.PartialObjectMetadata{}
	ns.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	if err := c.Get(ctx, client.ObjectKey{Name: name}, ns); err != nil {
		return nil, fmt.Errorf("get namespace %s: %w", name, err)
	}
	return ns, nil
}
