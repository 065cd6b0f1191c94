package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// users creates and deletes claims, and acts as the provisioner and the controllers of Kubernetes.
type users struct {
	t    *testing.T
	c    client.Client
	rng  *rand.Rand
	ns   string
	n    int
	live []pair
}

type pair struct {
	c  *corev1.PersistentVolumeClaim
	pv *corev1.PersistentVolume
}

func (u *users) check(err error) {
	if client.IgnoreNotFound(err) != nil {
		u.t.Error(err)
	}
}

// work creates and deletes claims, one step every 120 milliseconds, until stop is closed.
func (u *users) work(stop <-chan struct{}) {
	ctx := u.t.Context()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "tenant-"}}
	u.check(u.c.Create(ctx, ns))
	u.ns = ns.Name
	tick := time.NewTicker(120 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		if u.rng.IntN(3) > 0 && len(u.live) < 20 {
			u.make(ctx)
			continue
		}
		if len(u.live) > 0 {
			i := u.rng.IntN(len(u.live))
			u.remove(ctx, u.live[i])
			u.live = append(u.live[:i], u.live[i+1:]...)
		}
	}
}

func (u *users) make(ctx context.Context) {
	c := operatortest.Claim(u.ns, fmt.Sprintf("c%d", u.n))
	u.n++
	if len(u.live) > 0 && u.rng.IntN(4) == 0 {
		src := u.live[u.rng.IntN(len(u.live))]
		c.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: src.c.Name}
	}
	u.check(u.c.Create(ctx, c))
	p := pair{c: c}
	if u.rng.IntN(3) > 0 {
		p.pv = operatortest.Volume(c, "node-a", corev1.PersistentVolumeReclaimDelete)
		if s := c.Spec.DataSource; s != nil {
			p.pv.Spec.CSI.VolumeAttributes = map[string]string{"keyVolume": u.origin(s.Name)}
		}
		u.check(u.c.Create(ctx, p.pv))
		was := c.DeepCopy()
		c.Spec.VolumeName = p.pv.Name
		u.check(u.c.Patch(ctx, c, client.MergeFrom(was)))
	}
	u.live = append(u.live, p)
}

// origin returns the first volume of a chain of copies, as the driver reports it.
func (u *users) origin(claim string) string {
	for _, p := range u.live {
		if p.c.Name != claim {
			continue
		}
		if p.pv != nil && p.pv.Spec.CSI.VolumeAttributes["keyVolume"] != "" {
			return p.pv.Spec.CSI.VolumeAttributes["keyVolume"]
		}
		return "vol-" + string(p.c.UID)
	}
	return ""
}

// remove deletes a claim and everything that belongs to it, in random order.
func (u *users) remove(ctx context.Context, p pair) {
	objs := []client.Object{p.c}
	if p.pv != nil {
		objs = append(objs, p.pv)
	}
	if u.rng.IntN(3) == 0 {
		objs = append(objs, &v1alpha1.VolumeKey{ObjectMeta: metav1.ObjectMeta{Namespace: u.ns, Name: "pvc-" + string(p.c.UID)}})
	}
	u.rng.Shuffle(len(objs), func(i, j int) { objs[i], objs[j] = objs[j], objs[i] })
	for _, o := range objs {
		u.check(u.c.Delete(ctx, o))
		if _, ours := o.(*v1alpha1.VolumeKey); !ours {
			u.unprotect(ctx, o)
		}
	}
}

// unprotect removes the finalizers of Kubernetes, as its protection controllers do.
func (u *users) unprotect(ctx context.Context, o client.Object) {
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if err := u.c.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		o.SetFinalizers(slices.DeleteFunc(o.GetFinalizers(), func(f string) bool { return strings.HasPrefix(f, "kubernetes.io/") }))
		return u.c.Update(ctx, o)
	})
	u.check(err)
}

// settle waits until every claim that can get a key has it, then deletes all claims, and waits
// until nothing is left.
func (u *users) settle() {
	ctx := u.t.Context()
	await(u.t, func() error {
		for _, p := range u.live {
			if p.c.Spec.DataSource != nil || p.pv == nil {
				// The source may be gone before it got a volume; without a volume, no key is
				// delivered.
				continue
			}
			var s corev1.Secret
			if err := u.c.Get(ctx, client.ObjectKey{Namespace: operatortest.Namespace, Name: "pvc-" + string(p.c.UID)}, &s); err != nil {
				return err
			}
		}
		return nil
	})
	for _, p := range u.live {
		u.remove(ctx, p)
	}
	await(u.t, func() error {
		var keys v1alpha1.VolumeKeyList
		var volumes v1alpha1.SealedVolumeList
		var secrets corev1.SecretList
		err := errors.Join(u.c.List(ctx, &keys), u.c.List(ctx, &volumes), u.c.List(ctx, &secrets, client.InNamespace(operatortest.Namespace)))
		if n := len(keys.Items) + len(volumes.Items) + len(secrets.Items); n > 0 && err == nil {
			err = fmt.Errorf("left behind: %d keys, %d volumes, %d Secrets: %+v %+v", len(keys.Items), len(volumes.Items), len(secrets.Items), keys.Items, volumes.Items)
		}
		return err
	})
}

// untold checks that the log and the events contain no keys.
func untold(t *testing.T, c client.Client, keys map[string]bool, log string) {
	t.Helper()
	var list eventsv1.EventList
	if err := c.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	text := log + fmt.Sprint(list.Items)
	for kek := range keys {
		raw, err := hex.DecodeString(kek)
		if err != nil || len(raw) != 32 {
			t.Fatalf("a key of %d bytes: %v", len(raw), err)
		}
		if strings.Contains(text, kek) || strings.Contains(text, string(raw)) || strings.Contains(text, strings.Trim(fmt.Sprint(raw), "[]")) {
			t.Error("a key is in the log or in an event")
		}
	}
}
