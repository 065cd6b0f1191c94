package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

var env *operatortest.Env

// asOperator makes this test program the operator.
const asOperator = "SEALVOL_TEST_OPERATOR"

func TestMain(m *testing.M) {
	if os.Getenv(asOperator) != "" {
		main()
		return
	}
	operatortest.Main(m, func(e *operatortest.Env) { env = e }, func() error { return nil })
}

var kills = flag.Int("kills", 40, "how often the operator is killed")

// process is an operator, with the rights that the chart gives it.
type process struct {
	cmd  *exec.Cmd
	done chan error
}

func startProcess(t *testing.T, kubeconfig string, log io.Writer, args ...string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"--namespace", operatortest.Namespace}, args...)...)
	cmd.Env = append(os.Environ(), asOperator+"=1", "KUBECONFIG="+kubeconfig)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd, make(chan error, 1)}
	ended := make(chan struct{})
	go func() {
		p.done <- cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-ended
	})
	return p
}

func (p *process) end(t *testing.T, s os.Signal) error {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	return <-p.done
}

// syncBuffer is a log that several processes write.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func kubeconfig(t *testing.T) string {
	t.Helper()
	c, err := env.As(t.Context(), "operator", "")
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err = errors.Join(err, operatortest.WriteKubeconfig(path, c)); err != nil {
		t.Fatal(err)
	}
	return path
}

// witness watches all Secrets: a claim has one key, for ever.
type witness struct {
	mu   sync.Mutex
	made map[string]map[string]bool // VolumeKey → UIDs of its key Secrets
	keks map[string]map[string]bool // volume → keys that were delivered
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

// check tells what was made twice.
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

// TestKilledAnywhere kills the operator again and again while claims and volumes come and go. In the end everything is as it should be, every claim had
// one key for all its life, and no key was told.
func TestKilledAnywhere(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	scheme, err := operator.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.NewWithWatch(env.Config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	w := &witness{made: map[string]map[string]bool{}, keks: map[string]map[string]bool{}, all: map[string]bool{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready, watched := make(chan error, 1), make(chan error, 1)
	go func() { watched <- w.run(ctx, c, ready) }()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}

	config := kubeconfig(t)
	var log syncBuffer
	users := &users{t: t, c: c, rng: rand.New(rand.NewPCG(seed, 1))}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		users.work(stop)
	}()
	rng := rand.New(rand.NewPCG(seed, 2))
	for range *kills {
		p := startProcess(t, config, &log)
		wait := time.NewTimer(time.Duration(100+rng.IntN(900)) * time.Millisecond)
		select {
		case <-wait.C:
		case err := <-p.done:
			t.Fatalf("the operator ended: %v\n%s", err, tail(log.String()))
		}
		_ = p.end(t, syscall.SIGKILL) // says that it was killed
	}
	close(stop)
	<-stopped
	p := startProcess(t, config, &log)
	users.settle()
	if err := p.end(t, syscall.SIGTERM); err != nil {
		t.Errorf("the operator's end: %v\n%s", err, tail(log.String()))
	}
	cancel()
	if err := <-watched; err != nil {
		t.Error(err)
	}
	if err := w.check(); err != nil {
		t.Error(err)
	}
	if len(w.made) < 10 {
		t.Errorf("only %d keys were made", len(w.made))
	}
	t.Logf("%d claims, %d keys", users.n, len(w.made))
	untold(t, c, w.all, log.String())
}

func tail(s string) string { return s[max(0, len(s)-2000):] }

// users make claims; provisioner and namespace controller do what they do.
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

// work makes and deletes, a step every few milliseconds.
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

// origin is the volume at the beginning of a chain of copies, as the driver says.
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

// remove deletes a claim with all that belongs to it, in any order.
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

// unprotect does what the protection of claims and volumes does.
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

// settle waits until every living claim that can has its key, then deletes all, and waits until nothing is left.
func (u *users) settle() {
	ctx := u.t.Context()
	await(u.t, func() error {
		for _, p := range u.live {
			if p.c.Spec.DataSource != nil || p.pv == nil {
				continue // its source may have gone before it got a volume; without a volume it gets nothing
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
			err = fmt.Errorf("left: %d keys, %d volumes, %d Secrets: %+v %+v", len(keys.Items), len(volumes.Items), len(secrets.Items), keys.Items, volumes.Items)
		}
		return err
	})
}

func await(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("in vain: ", err)
		}
	}
}

// untold looks for keys in the log and in events.
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

// The probes and metrics of a pod; and that two of them lead in turn.
func TestServes(t *testing.T) {
	config := kubeconfig(t)
	var log syncBuffer
	args := func(probes, metrics string) []string {
		return []string{"--leader-elect", "--probe-address=" + probes, "--metrics-address=" + metrics}
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "tenant-"}}
	if err := env.Client.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	if err := env.Client.Create(t.Context(), operatortest.Claim(ns.Name, "data")); err != nil {
		t.Fatal(err)
	}
	probes, metrics := freePorts(t), freePorts(t)
	var all []*process
	for i := range probes {
		all = append(all, startProcess(t, config, &log, args(probes[i], metrics[i])...))
		for _, path := range []string{"healthz", "readyz"} {
			await(t, func() error { return fetch(t, "http://"+probes[i]+"/"+path, "ok") })
		}
		// The first leads, the other waits.
		want := []string{fmt.Sprintf(`leader_election_master_status{name="sealvol-operator"} %d`, 1-i)}
		if i == 0 {
			want = append(want, "controller_runtime_reconcile_total", "sealvol_volumekeys", "sealvol_sealedvolumes")
		}
		await(t, func() error { return fetch(t, "http://"+metrics[i]+"/metrics", want...) })
	}
	for _, p := range all {
		if err := p.end(t, syscall.SIGTERM); err != nil {
			t.Errorf("%v\n%s", err, tail(log.String()))
		}
	}
}

// freePorts returns two addresses on which nobody listens.
func freePorts(t *testing.T) (list [2]string) {
	t.Helper()
	var ls []net.Listener // both are open until both are known
	for i := range list {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		list[i] = l.Addr().String()
		ls = append(ls, l)
	}
	for _, l := range ls {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

func fetch(t *testing.T, url string, want ...string) error {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read whole below
	b, err := io.ReadAll(resp.Body)
	for _, w := range want {
		if err == nil && (resp.StatusCode != http.StatusOK || !strings.Contains(string(b), w)) {
			err = fmt.Errorf("%s: %s, without %s", url, resp.Status, w)
		}
	}
	return err
}

// What is wrong with the flags is said before anything is done.
func TestFlags(t *testing.T) {
	for want, args := range map[string][]string{
		"--namespace is missing": {"--namespace="},
		"--max-keys-per-name":    {"--namespace=x", "--max-keys-per-namespace=-1"},
		"--log-level":            {"--namespace=x", "--log-level=loud"},
		"--log-format":           {"--namespace=x", "--log-format=xml"},
		"unknown command":        {"serve"},
	} {
		c := command(io.Discard)
		c.SetArgs(args)
		c.SetOut(io.Discard)
		if err := c.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", args, err)
		}
	}
}
