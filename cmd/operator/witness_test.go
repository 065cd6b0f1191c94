package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// witness watches all Secrets and checks that the key of a claim never changes.
type witness struct {
	mu   sync.Mutex
	made map[string]map[string]bool // VolumeKey → UIDs of its key Secrets
	keks map[string]map[string]bool // volume → delivered keys
	all  map[string]bool
}

func (w *witness) run(ctx context.Context, c client.WithWatch, ready chan<- error) error {
	i, err := c.Watch(ctx, &corev1.SecretList{}, client.InNamespace(operatortest.Namespace))
	ready <- err
	if err != nil {
		return err
	}
	defer i.Stop()
	for e := range i.ResultChan() {
		s, ok := e.Object.(*corev1.Secret)
		if ctx.Err() != nil {
			return nil
		}
		if !ok {
			return fmt.Errorf("the watch of Secrets ended: %v", e.Object)
		}
		if e.Type != watch.Deleted {
			w.see(s)
		}
	}
	return nil
}

func (w *witness) see(s *corev1.Secret) {
	w.mu.Lock()
	defer w.mu.Unlock()
	kek := string(s.Data[v1alpha1.SecretKEK])
	set, name, value := w.keks, s.Name, kek
	if s.Labels[v1alpha1.RoleLabel] == v1alpha1.RoleKey {
		set, name, value = w.made, s.Annotations[v1alpha1.OwnerAnnotation], string(s.UID)
	}
	if set[name] == nil {
		set[name] = map[string]bool{}
	}
	set[name][value] = true
	w.all[kek] = true
}

// check returns an error if a key was created or delivered twice.
func (w *witness) check() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for what, set := range map[string]map[string]map[string]bool{"key Secrets of VolumeKey": w.made, "delivered keys of volume": w.keks} {
		for name, values := range set {
			if len(values) != 1 {
				return fmt.Errorf("%d %s %s", len(values), what, name)
			}
		}
	}
	return nil
}
