package operator_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

// chaos makes a third of all writes fail: half of these before they are done, and half after, as if
// the response was lost.
type chaos struct {
	mu  sync.Mutex
	rng *rand.Rand // guarded by mu
	on  atomic.Bool
	hit atomic.Int64
}

func (c *chaos) do(f func() error) error {
	c.mu.Lock()
	n := c.rng.IntN(6)
	c.mu.Unlock()
	if !c.on.Load() || n > 1 {
		return f()
	}
	c.hit.Add(1)
	resource := schema.GroupResource{Resource: "things"}
	lost := []error{apierrors.NewInternalError(errors.New("injected")), apierrors.NewConflict(resource, "x", errors.New("injected")),
		apierrors.NewTooManyRequests("injected", 0), context.DeadlineExceeded}[int(c.hit.Load())%4]
	if n == 0 {
		return lost
	}
	if err := f(); err != nil {
		return err
	}
	return lost
}

func (c *chaos) wrap(base client.WithWatch) client.Client { return aroundWrites(base, c.do) }

func seed(t *testing.T) *rand.Rand {
	t.Helper()
	n := uint64(time.Now().UnixNano())
	t.Logf("seed %d", n)
	return rand.New(rand.NewPCG(n, 0))
}

// workload creates claims with volumes in a namespace, and deletes them in any order. It returns
// the keys that were delivered.
func workload(t *testing.T, ns string, rng *rand.Rand, n int) map[string]string {
	t.Helper()
	type pair struct {
		c   *corev1.PersistentVolumeClaim
		pv  *corev1.PersistentVolume
		kek string
	}
	var live []pair
	keks := map[string]string{}
	for i := range n {
		c := operatortest.Claim(ns, fmt.Sprintf("c%d", i))
		create(t, c)
		if rng.IntN(4) == 0 { // deleted before it has a volume
			remove(t, c)
			continue
		}
		pv := operatortest.Volume(c, "node-a", del)
		if rng.IntN(2) == 0 { // otherwise provisioned before it has a key
			prepared(t, pv.Name)
		}
		bind(t, c, pv)
		kek := delivered(t, pv.Name)
		keks[pv.Name] = kek
		live = append(live, pair{c, pv, kek})
	}
	for _, p := range live {
		if again := delivered(t, p.pv.Name); again != p.kek {
			t.Errorf("the key of %s was created twice", p.pv.Name)
		}
	}
	rng.Shuffle(len(live), func(i, j int) { live[i], live[j] = live[j], live[i] })
	for _, p := range live {
		order := []client.Object{p.c, p.pv, keyNamed(ns, p.pv.Name), sealed(p.pv.Name)}
		rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		remove(t, order...)
	}
	return keks
}

// clean waits until all keys, volumes and Secrets of a namespace are gone.
func clean(t *testing.T, ns string) {
	t.Helper()
	eventually(t, func() error {
		var keys v1alpha1.VolumeKeyList
		var volumes v1alpha1.SealedVolumeList
		var secrets corev1.SecretList
		if err := errors.Join(env.Client.List(t.Context(), &keys, client.InNamespace(ns)), env.Client.List(t.Context(), &volumes),
			env.Client.List(t.Context(), &secrets, client.InNamespace(operatortest.Namespace))); err != nil {
			return err
		}
		var left []string
		names := map[string]bool{}
		for _, k := range keys.Items {
			left = append(left, "key "+k.Name)
		}
		for _, v := range volumes.Items {
			if v.Spec.ClaimRef != nil && v.Spec.ClaimRef.Namespace == ns {
				left = append(left, "volume "+v.Name)
			}
			names[v.Name] = true
		}
		for _, s := range secrets.Items {
			owner := s.Annotations[v1alpha1.OwnerAnnotation]
			if s.Labels[v1alpha1.RoleLabel] == v1alpha1.RoleKey && strings.HasPrefix(owner, ns+"/") ||
				s.Labels[v1alpha1.RoleLabel] == v1alpha1.RoleDelivery && !names[s.Name] {
				left = append(left, "Secret "+s.Name)
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("left behind: %v", left)
		}
		return nil
	})
}

// Whatever responses are lost, each key is created once, and everything that should be deleted is.
func TestFailingWrites(t *testing.T) {
	c := &chaos{rng: seed(t)}
	c.on.Store(true)
	start(t, c.wrap)
	ns := namespace(t)
	workload(t, ns, seed(t), 12)
	clean(t, ns)
	if c.hit.Load() < 20 {
		t.Errorf("only %d failures", c.hit.Load())
	}
}

// Two operators run at once without leader election. This is the worst that can happen if leader
// election fails.
func TestTwoOperators(t *testing.T) {
	start(t, nil)
	start(t, nil)
	ns := namespace(t)
	workload(t, ns, seed(t), 12)
	clean(t, ns)
}

// Of two operators with leader election, one is active. When it ends, the other takes over.
func TestLeaderElection(t *testing.T) {
	elect := func(o *ctrl.Options, _ *operator.Options) {
		lease, renew, retry := 3*time.Second, 2*time.Second, 200*time.Millisecond
		o.LeaderElection, o.LeaderElectionID, o.LeaderElectionNamespace, o.LeaderElectionReleaseOnCancel = true, "test", operatortest.Namespace, true
		o.LeaseDuration, o.RenewDeadline, o.RetryPeriod = &lease, &renew, &retry
	}
	first := start(t, nil, elect)
	ns := namespace(t)
	c, pv, kek := volume(t, ns, "one", del)
	start(t, nil, elect)
	first()
	c2, pv2, _ := volume(t, ns, "two", del)
	if delivered(t, pv.Name) != kek {
		t.Error("another key")
	}
	remove(t, c, pv, c2, pv2)
	clean(t, ns)
}

// cutter ends watches after a short time.
type cutter struct {
	base http.RoundTripper
	cuts atomic.Int64
}

// RoundTrip implements http.RoundTripper.
func (c *cutter) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Query().Get("watch") == "" {
		return c.base.RoundTrip(r)
	}
	// With shorter ones, client-go would back off.
	ctx, cancel := context.WithTimeout(r.Context(), 1100*time.Millisecond)
	resp, err := c.base.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel()
		return resp, err
	}
	c.cuts.Add(1)
	context.AfterFunc(ctx, cancel)
	return resp, nil
}

// Watches end all the time, so the test covers every list and every gap between two watches.
func TestLostWatches(t *testing.T) {
	var cut *cutter
	config, err := env.As(t.Context(), "operator", "")
	if err != nil {
		t.Fatal(err)
	}
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper {
		cut = &cutter{base: rt}
		return cut
	})
	run(t, config)
	rng := seed(t)
	for cut.cuts.Load() < 24 {
		ns := namespace(t)
		workload(t, ns, rng, 4)
		clean(t, ns)
	}
}

// run runs an operator with a configuration until the end of the test.
func run(t *testing.T, c *rest.Config) {
	t.Helper()
	m, err := manager(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("operator: %v", err)
		}
	})
	if !m.GetCache().WaitForCacheSync(t.Context()) {
		t.Fatal("the cache does not sync")
	}
}

// inherited gives a volume to a claim in another namespace. The claim gets the key after an
// administrator has granted it.
func inherited(t *testing.T, kept *corev1.PersistentVolume, sv *v1alpha1.SealedVolume, kek string) {
	t.Helper()
	ns2 := namespace(t)
	c := operatortest.Claim(ns2, "heir")
	create(t, c)
	prepared(t, "pvc-"+string(c.UID))
	eventually(t, func() error {
		if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(kept), kept); err != nil {
			return err
		}
		kept.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: ns2, Name: c.Name, UID: c.UID}
		return env.Client.Update(t.Context(), kept)
	})
	eventually(t, func() error { return update(t.Context(), c, func() { c.Spec.VolumeName = kept.Name }) })
	if msg := hasCondition(t, sv, v1alpha1.VolumeKeyReady, v1alpha1.ReasonNotGranted); !strings.Contains(msg, "kubectl annotate sealedvolume "+kept.Name+" "+v1alpha1.GrantAnnotation+"="+ns2) {
		t.Error(msg)
	}
	hasEvent(t, c, corev1.EventTypeWarning, v1alpha1.ReasonNotGranted)
	undelivered(t, kept.Name)
	grant(t, kept.Name, ns2)
	gone(t, sealed("pvc-"+string(c.UID)), keyNamed(ns2, "pvc-"+string(c.UID)))
	if delivered(t, kept.Name) != kek {
		t.Error("another key")
	}
	secret := sv.Spec.Key.SecretName
	remove(t, c, kept, sv)
	gone(t, sv, secretNamed(kept.Name), secretNamed(secret))
	clean(t, ns2)
}

// Kubernetes' own controllers delete a namespace with claims, keys and snapshots in any order.
// Retained volumes stay usable.
func TestNamespaceDeleted(t *testing.T) {
	stop, err := env.StartControllers()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	start(t, nil)
	ns := namespace(t)
	var kept *corev1.PersistentVolume
	var pvs []*corev1.PersistentVolume
	var kek string
	for i, policy := range []corev1.PersistentVolumeReclaimPolicy{del, retain, del} {
		_, pv, k := volume(t, ns, fmt.Sprintf("c%d", i), policy)
		if policy == retain {
			kept, kek = pv, k
		} else {
			pvs = append(pvs, pv)
		}
	}
	pending := operatortest.Claim(ns, "pending")
	create(t, pending)
	prepared(t, "pvc-"+string(pending.UID))
	if err := env.Client.Delete(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); err != nil {
		t.Fatal(err)
	}
	gone(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
	// The provisioner deletes the volumes. It needs no key, and nobody may have it.
	for _, pv := range pvs {
		gone(t, secretNamed(pv.Name))
		if sv := getSealed(t, pv.Name); !slices.Contains(sv.Finalizers, v1alpha1.VolumeFinalizer) || sv.DeletionTimestamp != nil {
			t.Errorf("the SealedVolume of an existing volume: %+v", sv.ObjectMeta)
		}
		if err := env.Client.Delete(t.Context(), pv); err != nil {
			t.Fatal(err)
		}
		patch(t, pv, func() { pv.Status.Phase = corev1.VolumeReleased })
		gone(t, sealed(pv.Name), secretNamed(pv.Name))
	}
	gone(t, sealed("pvc-"+string(pending.UID)))
	gone(t, secretNamed(kept.Name))
	sv := getSealed(t, kept.Name)
	if !slices.Contains([]v1alpha1.Phase{v1alpha1.PhaseReleased}, sv.Status.Phase) || sv.Spec.Key.SecretName == "" {
		t.Errorf("%+v %+v", sv.Spec, sv.Status)
	}
	inherited(t, kept, sv, kek)
}

// patch changes a status.
func patch(t *testing.T, o client.Object, change func()) {
	t.Helper()
	was, ok := o.DeepCopyObject().(client.Object)
	if !ok {
		t.Fatal(o)
	}
	change()
	if err := env.Client.Status().Patch(t.Context(), o, client.MergeFrom(was)); client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
}
