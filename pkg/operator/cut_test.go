package operator_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// cutAt interrupts an operator at one of its writes, before or after the write is done.
type cutAt struct {
	n, at atomic.Int64
	after bool
	fatal atomic.Pointer[string]
	mu    sync.Mutex
	names map[string]bool // volumes to check; guarded by mu
	look  func(ctx context.Context, name string) error
}

var errCut = errors.New("interrupted")

func (c *cutAt) do(f func() error) error {
	n := c.n.Add(1)
	if at := c.at.Load(); at > 0 && (n > at || n == at && !c.after) {
		return errCut
	}
	err := f()
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.names {
		if err := c.look(context.Background(), name); err != nil {
			s := err.Error()
			c.fatal.Store(&s)
		}
	}
	if at := c.at.Load(); at > 0 && n == at {
		return errCut
	}
	return err
}

func (c *cutAt) wrap(base client.WithWatch) client.Client { return aroundWrites(base, c.do) }

// held checks that a delivered key belongs to a PersistentVolume that has the finalizer.
func held(ctx context.Context, name string) error {
	err := env.Client.Get(ctx, client.ObjectKey{Namespace: operatortest.Namespace, Name: name}, &corev1.Secret{})
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	pv, err := get(ctx, "", name, &corev1.PersistentVolume{})
	if err != nil || !slices.Contains(pv.Finalizers, v1alpha1.DeliveryFinalizer) {
		return fmt.Errorf("the key of %s is delivered, but its PersistentVolume has no finalizer: %w %v", name, err, pv.Finalizers)
	}
	return nil
}

// An operator that is interrupted at any of its writes, before or after the write is done, never
// delivers the key of a PersistentVolume without the finalizer. The next operator continues.
func TestDeliveryCutAnywhere(t *testing.T) {
	ns := namespace(t)
	for _, after := range []bool{false, true} {
		for at := int64(1); ; at++ {
			c := operatortest.Claim(ns, fmt.Sprintf("cut-%t-%d", after, at))
			create(t, c)
			pv := operatortest.Volume(c, "node-a", del)
			bind(t, c, pv)
			cut := &cutAt{after: after, names: map[string]bool{pv.Name: true}, look: held}
			cut.at.Store(at)
			stop := start(t, cut.wrap)
			cut.lives(t, &stop, func() error {
				_, err := get(t.Context(), operatortest.Namespace, pv.Name, &corev1.Secret{})
				return err
			})
			remove(t, c, pv)
			cut.lives(t, &stop, func() error {
				for _, o := range []client.Object{pv, sealed(pv.Name), secretNamed(pv.Name), keyNamed(ns, pv.Name)} {
					if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
						return fmt.Errorf("%T: %w", o, errors.Join(err, errStays))
					}
				}
				return nil
			})
			stop()
			if s := cut.fatal.Load(); s != nil {
				t.Fatalf("interrupted at write %d (after: %t): %s", at, after, *s)
			}
			if cut.at.Load() > 0 {
				t.Logf("%d writes", cut.n.Load())
				break
			}
		}
	}
}

// lives waits for the result of an operator. If that operator was interrupted, it starts another
// one.
func (c *cutAt) lives(t *testing.T, stop *func(), done func() error) {
	t.Helper()
	died := false
	eventually(t, func() error {
		err := done()
		at := c.at.Load()
		if died = err != nil && at > 0 && c.n.Load() >= at; died {
			return nil
		}
		return err
	})
	if died {
		(*stop)()
		c.at.Store(0)
		*stop = start(t, c.wrap)
		eventually(t, done)
	}
}
