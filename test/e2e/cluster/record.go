package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// Recorder records the cluster while stories run, including deleted objects: every version of every
// object except Secrets, including events, and all output of Sealvol's and the stories' containers.
// It learns all keys from the Secrets, and at the end searches everything for them.
type Recorder struct {
	dir    string
	cancel context.CancelFunc
	client kubernetes.Interface
	done   sync.WaitGroup

	// Summary says what Leaks has searched.
	Summary string

	mu      sync.Mutex
	keys    Needles
	follows map[string]bool
	failed  error
}

// Record starts recording into the directory `record` of E2E_OUT.
func Record() (*Recorder, error) {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	r := &Recorder{dir: filepath.Join(os.Getenv("E2E_OUT"), "record"), client: clients, follows: map[string]bool{}}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return nil, err
	}
	kinds, err := listable(clients.Discovery())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	for _, k := range kinds {
		r.done.Go(func() { r.fail(r.objects(ctx, objects.Resource(k), k)) })
	}
	r.done.Go(func() { r.fail(r.secrets(ctx)) })
	r.done.Go(func() { r.fail(r.pods(ctx)) })
	return r, nil
}

func (r *Recorder) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = errors.Join(r.failed, err)
}

// listable returns all kinds except Secrets and those that change every second without useful
// information.
func listable(d discovery.DiscoveryInterface) ([]schema.GroupVersionResource, error) {
	lists, err := d.ServerPreferredResources()
	if err != nil {
		return nil, err
	}
	var all []schema.GroupVersionResource
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, x := range l.APIResources {
			skip := x.Name == "secrets" || x.Name == "leases" || x.Name == "endpoints" || x.Name == "events" && gv.Group == ""
			if !skip && strings.Contains(x.Verbs.String(), "watch") {
				all = append(all, gv.WithResource(x.Name))
			}
		}
	}
	return all, nil
}

// again watches until ctx ends. Each watch starts with all objects.
func again(ctx context.Context, open func() (watch.Interface, error), see func(watch.Event)) {
	for ctx.Err() == nil {
		w, err := open()
		if err == nil {
			for e := range w.ResultChan() {
				if e.Type != watch.Error && e.Type != watch.Bookmark {
					see(e)
				}
			}
			w.Stop()
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// objects records every version of the objects of a kind.
func (r *Recorder) objects(ctx context.Context, of dynamic.NamespaceableResourceInterface, k schema.GroupVersionResource) error {
	f, err := os.Create(filepath.Join(r.dir, strings.Trim(k.Resource+"."+k.Group, ".")+".json"))
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	again(ctx, func() (watch.Interface, error) { return of.Watch(ctx, metav1.ListOptions{}) }, func(e watch.Event) {
		b, merr := json.Marshal(e.Object)
		_, werr := fmt.Fprintf(w, "%s %s\n", e.Type, b)
		err = errors.Join(err, merr, werr)
	})
	return errors.Join(err, w.Flush(), f.Close())
}

// secrets learns the keys: everything in Sealvol's namespace, and fields that are named like keys.
func (r *Recorder) secrets(ctx context.Context) error {
	again(ctx, func() (watch.Interface, error) {
		return r.client.CoreV1().Secrets(metav1.NamespaceAll).Watch(ctx, metav1.ListOptions{})
	}, func(e watch.Event) {
		s, ok := e.Object.(*corev1.Secret)
		if !ok {
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for name, b := range s.Data {
			if strings.HasPrefix(name, "kek") {
				r.keys.AddKey(s.Namespace+"/"+s.Name+" "+name, b)
			}
		}
	})
	return nil
}

// pods follows the output of Sealvol's containers and of those of stories.
func (r *Recorder) pods(ctx context.Context) error {
	again(ctx, func() (watch.Interface, error) {
		return r.client.CoreV1().Pods(metav1.NamespaceAll).Watch(ctx, metav1.ListOptions{})
	}, func(e watch.Event) {
		p, ok := e.Object.(*corev1.Pod)
		if !ok {
			return
		}
		for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
			if s.State.Running != nil || s.State.Terminated != nil {
				r.follow(ctx, p, s)
			}
		}
	})
	return nil
}

// follow copies the output of one run of a container.
func (r *Recorder) follow(ctx context.Context, p *corev1.Pod, s corev1.ContainerStatus) {
	file := fmt.Sprintf("%s_%s_%s_%d.log", p.Namespace, p.Name, s.Name, s.RestartCount)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.follows[string(p.UID)+file] {
		return
	}
	r.follows[string(p.UID)+file] = true
	r.done.Go(func() {
		in, err := r.client.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{Container: s.Name, Follow: true}).Stream(ctx)
		if err != nil {
			return // the container is gone already
		}
		defer func() { _ = in.Close() }()
		out, err := os.OpenFile(filepath.Join(r.dir, file), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			r.fail(err)
			return
		}
		_, _ = io.Copy(out, in) // ends with the container or with this program
		r.fail(out.Close())
	})
}

// Leaks ends the recording and returns all places that contain a key: in the records, in the nodes'
// logs, and in the files that the driver keeps beside volumes. It fails if it could not have found
// any.
func (r *Recorder) Leaks() ([]string, error) {
	r.cancel()
	r.done.Wait()
	if r.failed != nil {
		return nil, r.failed
	}
	if r.keys.Len() == 0 {
		return nil, errors.New("no key was ever seen, so none could have been found")
	}
	if err := r.recorded("events.events.k8s.io.json", "sealedvolumes.sealvol.dev.json", "*_sealvol-node-*_driver_*.log", "*_sealvol-operator-*_operator_*.log"); err != nil {
		return nil, err
	}
	roots := []string{r.dir}
	nodes, _ := filepath.Glob(filepath.Join(os.Getenv("CLUSTER_STATE"), "nodes", "*", "[ldk][oau][gtb]*")) // log, data, kubelet; cannot fail: the pattern is well-formed
	roots = append(roots, nodes...)
	var found []string
	files := 0
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() || strings.HasSuffix(path, ".img") {
				return ignoreGone(err)
			}
			files++
			names, err := r.keys.InFile(path)
			for _, n := range names {
				found = append(found, path+": the key of "+n)
			}
			return ignoreGone(err)
		})
		if err != nil {
			return nil, err
		}
	}
	if files < len(nodes) {
		return nil, fmt.Errorf("only %d files were found in %v", files, roots)
	}
	r.Summary = fmt.Sprintf("%d keys were looked for in %d files", r.keys.Len(), files)
	return found, nil
}

// recorded fails if nothing was written to one of these files, because then the search proves
// nothing.
func (r *Recorder) recorded(patterns ...string) error {
	for _, p := range patterns {
		files, err := filepath.Glob(filepath.Join(r.dir, p))
		if err != nil {
			return err
		}
		var size int64
		for _, f := range files {
			i, err := os.Stat(f)
			if err != nil {
				return err
			}
			size += i.Size()
		}
		if size == 0 {
			return fmt.Errorf("nothing was recorded for %s", p)
		}
	}
	return nil
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
