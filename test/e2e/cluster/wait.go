package cluster

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// errFinal ends a wait at once, because the condition can no longer become true.
var errFinal = errors.New("the wait cannot succeed any more")

// Final makes an error of a Wait's condition end the wait.
func Final(err error) error { return fmt.Errorf("%w: %w", err, errFinal) }

// Wait watches an object, in the test's namespace if its kind has one, until done returns nil. done
// is called with every version of the object. Wait reports the last error of done at its deadline.
func Wait[T client.Object](c *Cluster, obj T, name string, timeout time.Duration, done func(T) error) {
	c.t.Helper()
	err := c.watch(obj, fields.OneTermEqualSelector("metadata.name", name), timeout, func(o client.Object, deleted bool) error {
		if deleted {
			return fmt.Errorf("%s does not exist", name)
		}
		v, ok := o.(T)
		if !ok {
			return Final(fmt.Errorf("unexpected type %T", o))
		}
		return done(v)
	})
	if err != nil {
		c.t.Fatalf("%T %s: %v", obj, name, err)
	}
}

// Gone waits until an object does not exist.
func (c *Cluster) Gone(obj client.Object, name string) {
	c.t.Helper()
	if err := c.gone(obj, name, Timeout); err != nil {
		c.t.Fatal(err)
	}
}

func (c *Cluster) gone(obj client.Object, name string, timeout time.Duration) error {
	err := c.watch(obj, fields.OneTermEqualSelector("metadata.name", name), timeout, func(o client.Object, deleted bool) error {
		if deleted {
			return nil
		}
		return fmt.Errorf("it still exists, with the finalizers %v", o.GetFinalizers())
	})
	if err != nil {
		return fmt.Errorf("%T %s: %w", obj, name, err)
	}
	return nil
}

// watch lists what a selector finds and then watches it. done sees each object, and (nil, true) if
// there is none.
func (c *Cluster) watch(obj client.Object, selector fields.Selector, timeout time.Duration, done func(o client.Object, deleted bool) error) error {
	ctx, cancel := context.WithTimeout(c.ctx, timeout)
	defer cancel()
	last := errors.New("the object was never seen")
	for {
		err := c.watchOnce(ctx, obj, selector, func(o client.Object, deleted bool) bool {
			last = done(o, deleted)
			return last == nil || errors.Is(last, errFinal)
		})
		switch {
		case err == nil:
			return last
		case ctx.Err() != nil:
			return fmt.Errorf("not within %v: %w", timeout, last)
		}
		select { // the API server may be busy; a watch that it ended is started again
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// errAgain: the watch ended before the condition was true.
var errAgain = errors.New("the watch ended")

func (c *Cluster) watchOnce(ctx context.Context, obj client.Object, selector fields.Selector, enough func(o client.Object, deleted bool) bool) error {
	list, err := c.listOf(obj)
	if err != nil {
		return err
	}
	opts := []client.ListOption{client.MatchingFieldsSelector{Selector: selector}}
	if namespaced, err := c.client.IsObjectNamespaced(obj); err != nil {
		return err
	} else if namespaced {
		opts = append(opts, client.InNamespace(c.Namespace))
	}
	if err := c.client.List(ctx, list, opts...); err != nil {
		return err
	}
	items, err := meta.ExtractList(list)
	if err != nil {
		return err
	}
	if len(items) == 0 && enough(nil, true) {
		return nil
	}
	for _, i := range items {
		if o, ok := i.(client.Object); ok && enough(o, false) {
			return nil
		}
	}
	opts = append(opts, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.GetResourceVersion()}})
	w, err := c.client.Watch(ctx, list, opts...)
	if err != nil {
		return err
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		o, ok := e.Object.(client.Object)
		switch {
		case e.Type == watch.Bookmark:
		case !ok: // an error: too old, or the server ended the watch
			return errAgain
		case enough(o, e.Type == watch.Deleted):
			return nil
		}
	}
	return errAgain
}

func (c *Cluster) listOf(obj client.Object) (client.ObjectList, error) {
	gvk, err := c.client.GroupVersionKindFor(obj)
	if err != nil {
		return nil, err
	}
	gvk.Kind += "List"
	list, err := c.client.Scheme().New(gvk)
	if err != nil {
		return nil, err
	}
	l, ok := list.(client.ObjectList)
	if !ok {
		return nil, fmt.Errorf("%T is not a list", list)
	}
	return l, nil
}

// PodReady waits until a pod is ready.
func (c *Cluster) PodReady(name string) *corev1.Pod {
	c.t.Helper()
	return c.pod(name, func(p *corev1.Pod) bool {
		for _, cond := range p.Status.Conditions {
			if cond.Type == corev1.PodReady {
				return cond.Status == corev1.ConditionTrue
			}
		}
		return false
	})
}

// PodSucceeded waits until all containers of a pod have ended successfully.
func (c *Cluster) PodSucceeded(name string) *corev1.Pod {
	c.t.Helper()
	return c.pod(name, func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
}

func (c *Cluster) pod(name string, done func(*corev1.Pod) bool) *corev1.Pod {
	c.t.Helper()
	var pod *corev1.Pod
	Wait(c, &corev1.Pod{}, name, Timeout, func(p *corev1.Pod) error {
		pod = p
		switch {
		case done(p):
			return nil
		case p.Status.Phase == corev1.PodFailed:
			return Final(fmt.Errorf("the pod failed: %s", state(p)))
		}
		return fmt.Errorf("phase %s: %s", p.Status.Phase, state(p))
	})
	return pod
}

// state describes the containers of a pod.
func state(p *corev1.Pod) string {
	var s []string
	for _, c := range p.Status.ContainerStatuses {
		switch {
		case c.State.Waiting != nil:
			s = append(s, fmt.Sprintf("%s waits: %s %s", c.Name, c.State.Waiting.Reason, c.State.Waiting.Message))
		case c.State.Terminated != nil:
			s = append(s, fmt.Sprintf("%s ended with %d: %s %s", c.Name, c.State.Terminated.ExitCode, c.State.Terminated.Reason, c.State.Terminated.Message))
		default:
			s = append(s, fmt.Sprintf("%s runs, ready: %t", c.Name, c.Ready))
		}
	}
	return strings.Join(s, "; ")
}

// ClaimBound waits until a claim is bound.
func (c *Cluster) ClaimBound(name string) *corev1.PersistentVolumeClaim {
	c.t.Helper()
	var claim *corev1.PersistentVolumeClaim
	Wait(c, &corev1.PersistentVolumeClaim{}, name, Timeout, func(p *corev1.PersistentVolumeClaim) error {
		claim = p
		if p.Status.Phase != corev1.ClaimBound {
			return fmt.Errorf("phase %s", p.Status.Phase)
		}
		return nil
	})
	return claim
}

// Event waits for an event on an object of the test's namespace. Its reason and message, as
// "Reason: message", must match the expression.
func (c *Cluster) Event(kind, name, expression string) string {
	c.t.Helper()
	re := regexp.MustCompile(expression)
	var found string
	err := c.watch(&corev1.Event{}, fields.Set{"involvedObject.kind": kind, "involvedObject.name": name}.AsSelector(), Timeout, func(o client.Object, _ bool) error {
		e, ok := o.(*corev1.Event)
		if !ok {
			return errors.New("there is no event")
		}
		if found = e.Reason + ": " + e.Message; !re.MatchString(found) {
			return fmt.Errorf("the last event is %q", found)
		}
		return nil
	})
	if err != nil {
		c.t.Fatalf("events of %s %s that match %q: %v", kind, name, expression, err)
	}
	return found
}

// Eventually repeats a check of something that cannot be watched, until it returns nil.
func (c *Cluster) Eventually(timeout time.Duration, done func() error) {
	c.t.Helper()
	end := time.After(timeout)
	for {
		err := done()
		if err == nil {
			return
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-end:
			c.t.Fatalf("not true within %v: %v", timeout, err)
		case <-c.ctx.Done():
			c.t.Fatalf("the deadline of the test has passed: %v", err)
		}
	}
}
