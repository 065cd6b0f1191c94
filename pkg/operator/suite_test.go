package operator_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

var env *operatortest.Env

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.FromSlogHandler(slog.NewTextHandler(&logged, nil)))
	operatortest.Main(m, func(e *operatortest.Env) { env = e }, func() error { return told.search(context.Background()) })
}

// logged is the log of all operators in these tests. It must not contain keys.
var logged logBuffer

type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// wrap changes an operator's client, for example to make it fail.
type wrap func(client.WithWatch) client.Client

// aroundWrites passes each write of a client to do, which may execute it.
func aroundWrites(base client.WithWatch, do func(write func() error) error) client.Client {
	return interceptor.NewClient(base, interceptor.Funcs{
		Create: func(ctx context.Context, w client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			return do(func() error { return w.Create(ctx, o, opts...) })
		},
		Update: func(ctx context.Context, w client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			return do(func() error { return w.Update(ctx, o, opts...) })
		},
		Patch: func(ctx context.Context, w client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			return do(func() error { return w.Patch(ctx, o, p, opts...) })
		},
		Delete: func(ctx context.Context, w client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			return do(func() error { return w.Delete(ctx, o, opts...) })
		},
		SubResourcePatch: func(ctx context.Context, w client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			return do(func() error { return w.SubResource(sub).Patch(ctx, o, p, opts...) })
		},
	})
}

// start runs an operator with the rights that the chart gives it, until stop is called or the test
// ends.
func start(t *testing.T, w wrap, change ...func(*ctrl.Options, *operator.Options)) (stop func()) {
	t.Helper()
	c, err := env.As(t.Context(), "operator", "")
	if err != nil {
		t.Fatal(err)
	}
	m, err := manager(t.Context(), c, w, change...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Start(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil && !strings.Contains(err.Error(), "leader election lost") {
				t.Errorf("operator: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	if !m.GetCache().WaitForCacheSync(t.Context()) {
		t.Fatal("the cache does not sync")
	}
	return stop
}

func manager(ctx context.Context, c *rest.Config, w wrap, change ...func(*ctrl.Options, *operator.Options)) (ctrl.Manager, error) {
	scheme, err := operator.Scheme()
	if err != nil {
		return nil, err
	}
	skip := true
	opt := ctrl.Options{Scheme: scheme, Cache: operator.Cache(operatortest.Namespace), Metrics: server.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: &skip}}
	if w != nil {
		opt.NewClient = func(c *rest.Config, o client.Options) (client.Client, error) {
			base, err := client.NewWithWatch(c, o)
			if err != nil {
				return nil, err
			}
			return w(base), nil
		}
	}
	mine := operator.Options{Namespace: operatortest.Namespace, Snapshots: true, Log: slog.New(slog.NewTextHandler(&logged, nil))}
	for _, f := range change {
		f(&opt, &mine)
	}
	m, err := ctrl.NewManager(c, opt)
	if err != nil {
		return nil, err
	}
	return m, operator.Add(ctx, m, mine)
}

// eventually repeats f until it returns nil.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	if err := within(t.Context(), 30*time.Second, f); err != nil {
		t.Fatal(err)
	}
}

func within(ctx context.Context, d time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("timed out: %w", err)
		}
	}
}

func get[T client.Object](ctx context.Context, namespace, name string, into T) (T, error) {
	return into, env.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, into)
}

func create(t *testing.T, objs ...client.Object) {
	t.Helper()
	for _, o := range objs {
		if err := env.Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
}

// remove deletes objects as users do. It also removes the finalizers of Kubernetes' own
// controllers, which do not run here.
func remove(t *testing.T, objs ...client.Object) {
	t.Helper()
	for _, o := range objs {
		if err := env.Client.Delete(t.Context(), o); client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
		unprotect(t, o)
	}
}

// unprotect removes the finalizers of Kubernetes, as its protection controllers do.
func unprotect(t *testing.T, o client.Object) {
	t.Helper()
	err := within(t.Context(), 10*time.Second, func() error {
		if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return client.IgnoreNotFound(err)
		}
		var keep []string
		for _, f := range o.GetFinalizers() {
			if !strings.HasPrefix(f, "kubernetes.io/") {
				keep = append(keep, f)
			}
		}
		if len(keep) == len(o.GetFinalizers()) {
			return nil
		}
		o.SetFinalizers(keep)
		return client.IgnoreNotFound(env.Client.Update(t.Context(), o))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// namespace creates a namespace for a test.
func namespace(t *testing.T) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "tenant-"}}
	create(t, ns)
	return ns.Name
}

// delivered waits until a volume's delivery Secret holds a key, and returns it.
func delivered(t *testing.T, volume string) string {
	t.Helper()
	var kek string
	eventually(t, func() error {
		s, err := get(t.Context(), operatortest.Namespace, volume, &corev1.Secret{})
		if err != nil {
			return err
		}
		kek = string(s.Data[v1alpha1.SecretKEK])
		if raw, err := hex.DecodeString(kek); err != nil || len(raw) != 32 {
			return errors.New("the delivery Secret holds no key")
		}
		return nil
	})
	told.add(kek)
	return kek
}

// prepared waits until the key for the claim's future volume is ready, and checks that it is not
// delivered yet.
func prepared(t *testing.T, volume string) {
	t.Helper()
	hasCondition(t, sealed(volume), v1alpha1.VolumeKeyReady, v1alpha1.ReasonPrepared)
	undelivered(t, volume)
}

// undelivered checks that a volume has no delivery Secret.
func undelivered(t *testing.T, volume string) {
	t.Helper()
	if err := env.Client.Get(t.Context(), client.ObjectKey{Namespace: operatortest.Namespace, Name: volume}, &corev1.Secret{}); !apierrors.IsNotFound(err) {
		t.Errorf("the key of %s is delivered: %v", volume, err)
	}
}

// bind creates the PersistentVolume of a claim and binds both, as the provisioner and the binder
// do.
func bind(t *testing.T, c *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
	t.Helper()
	create(t, pv)
	patch := client.MergeFrom(c.DeepCopy())
	c.Spec.VolumeName = pv.Name
	if err := env.Client.Patch(t.Context(), c, patch); err != nil {
		t.Fatal(err)
	}
	for _, o := range []client.Object{c, pv} {
		was, ok := o.DeepCopyObject().(client.Object)
		if !ok {
			t.Fatal(o)
		}
		c.Status.Phase, pv.Status.Phase = corev1.ClaimBound, corev1.VolumeBound
		if err := env.Client.Status().Patch(t.Context(), o, client.MergeFrom(was)); err != nil {
			t.Fatal(err)
		}
	}
}

// volume creates a claim with its volume, and waits for the key.
func volume(t *testing.T, ns, name string, policy corev1.PersistentVolumeReclaimPolicy) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume, string) {
	t.Helper()
	c := operatortest.Claim(ns, name)
	create(t, c)
	prepared(t, "pvc-"+string(c.UID))
	pv := operatortest.Volume(c, "node-a", policy)
	bind(t, c, pv)
	kek := delivered(t, pv.Name)
	eventually(t, func() error {
		sv, err := get(t.Context(), "", pv.Name, &v1alpha1.SealedVolume{})
		if err == nil && (sv.Spec.VolumeHandle == "" || sv.Spec.NodeName != "node-a" || sv.Status.Phase != v1alpha1.PhaseAvailable) {
			err = fmt.Errorf("%+v %+v", sv.Spec, sv.Status)
		}
		return err
	})
	return c, pv, kek
}

// gone waits until objects are gone.
func gone(t *testing.T, objs ...client.Object) {
	t.Helper()
	for _, o := range objs {
		eventually(t, func() error {
			err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o)
			if apierrors.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("%T %s is still there: %w: %+v", o, o.GetName(), errors.Join(err, errStays), o)
		})
	}
}

var errStays = errors.New("it stays")

func secretNamed(name string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: operatortest.Namespace, Name: name}}
}

func sealed(name string) *v1alpha1.SealedVolume {
	return &v1alpha1.SealedVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// hasCondition waits for a condition's reason and returns its message.
func hasCondition(t *testing.T, o client.Object, kind, reason string) string {
	t.Helper()
	var msg string
	eventually(t, func() error {
		if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		var list []metav1.Condition
		switch o := o.(type) {
		case *v1alpha1.VolumeKey:
			list = o.Status.Conditions
		case *v1alpha1.SealedVolume:
			list = o.Status.Conditions
		}
		c := meta.FindStatusCondition(list, kind)
		if c == nil || c.Reason != reason {
			return fmt.Errorf("condition %s: %+v, want %s", kind, c, reason)
		}
		msg = c.Message
		return nil
	})
	return msg
}

// hasEvent waits for an event about an object.
func hasEvent(t *testing.T, o client.Object, kind, reason string) string {
	t.Helper()
	var note string
	eventually(t, func() error {
		var list eventsv1.EventList
		if err := env.Client.List(t.Context(), &list); err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Regarding.UID == o.GetUID() && e.Reason == reason && e.Type == kind {
				note = e.Note
				return nil
			}
		}
		return fmt.Errorf("no event %s %s about %s", kind, reason, o.GetName())
	})
	return note
}
