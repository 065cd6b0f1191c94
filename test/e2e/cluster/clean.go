package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// clean deletes the test's namespace and waits until it and its volumes are gone. If something is
// not gone in time, it hangs: then clean aborts the FUSE connections, which releases it, and the
// test fails.
func (c *Cluster) clean() {
	defer func(ctx context.Context) { c.ctx = ctx }(c.ctx)
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout+time.Minute)
	defer cancel()
	c.ctx = ctx
	if _, err := c.run(ctx, "", "kubectl", "delete", "namespace", c.Namespace, "--wait=false", "--ignore-not-found"); err != nil {
		c.t.Error(err)
		return
	}
	err := c.gone(&corev1.Namespace{}, c.Namespace, cleanTimeout)
	if err == nil {
		err = c.volumesGone(ctx)
	}
	if err == nil {
		return
	}
	c.t.Errorf("clean up: %v", err)
	c.collect()
	AbortMounts()
	if err := c.gone(&corev1.Namespace{}, c.Namespace, time.Minute); err != nil {
		c.t.Errorf("clean up, after all mounts were aborted: %v", err)
	}
}

// volumesGone waits until all volumes of the namespace's claims that are deleted with them are
// gone.
func (c *Cluster) volumesGone(ctx context.Context) error {
	var list corev1.PersistentVolumeList
	if err := c.client.List(ctx, &list); err != nil {
		return err
	}
	for _, pv := range list.Items {
		if pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.Namespace != c.Namespace || pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
			continue
		}
		if err := c.gone(&corev1.PersistentVolume{}, pv.Name, time.Minute); client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

// AbortMounts aborts the FUSE connections of all Sealvol volumes in the cluster: programs that wait
// for a mount server get an error.
func AbortMounts() {
	for _, m := range Mounts() {
		// A connection that no longer exists is no error.
		_ = os.WriteFile(filepath.Join("/sys/fs/fuse/connections", strconv.Itoa(m.Minor), "abort"), []byte("1"), 0)
	}
}

// Mount is a mount of a volume on a node.
type Mount struct {
	Node   string // its number
	Minor  int    // of its device: the number of its FUSE connection
	Path   string
	Source string
}

// Mounts returns the FUSE mounts of all volumes. It reads them from places that never wait for a
// mount server.
func Mounts() []Mount {
	var all []Mount
	dirs, _ := filepath.Glob(filepath.Join(os.Getenv("CLUSTER_STATE"), "nodes", "*")) // cannot fail: the pattern is well-formed
	for _, dir := range dirs {
		pid, err := os.ReadFile(filepath.Join(dir, "node.pid"))
		if err != nil {
			continue
		}
		info, err := os.ReadFile(fmt.Sprintf("/proc/%s/mountinfo", strings.TrimSpace(string(pid))))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(info)) {
			left, right, _ := strings.Cut(line, " - fuse.sealvol ")
			f, source := strings.Fields(left), strings.Fields(right)
			if len(f) < 5 || len(source) == 0 {
				continue
			}
			_, minor, _ := strings.Cut(f[2], ":")
			if n, err := strconv.Atoi(minor); err == nil {
				all = append(all, Mount{Node: filepath.Base(dir), Minor: n, Path: f[4], Source: source[0]})
			}
		}
	}
	return all
}

// collect writes what may explain a failure to E2E_OUT: objects, events and logs of the test's
// namespace and of Sealvol, but never the contents of Secrets.
func (c *Cluster) collect() {
	out := os.Getenv("E2E_OUT")
	if out == "" {
		return
	}
	dir := filepath.Join(out, strings.ReplaceAll(c.t.Name(), "/", "_"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		c.t.Log(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	since := fmt.Sprintf("--since=%ds", int(time.Since(c.began).Seconds())+1)
	for file, args := range map[string][]string{
		"events.txt":        {"get", "events", "-A", "--sort-by=.lastTimestamp", "-o", "wide"},
		"objects.yaml":      {"-n", c.Namespace, "get", "all,pvc,volumesnapshot,volumekeys", "-o", "yaml"},
		"describe.txt":      {"-n", c.Namespace, "describe", "pod,pvc,volumesnapshot,volumekeys"},
		"volumes.yaml":      {"get", "pv,sealedvolumes,volumesnapshotcontents,csinodes", "-o", "yaml"},
		"secrets.txt":       {"-n", c.System, "get", "secrets"}, // only names
		"sealvol-pods.txt":  {"-n", c.System, "describe", "pods"},
		"sealvol-logs.txt":  {"-n", c.System, "logs", "--all-containers", "--prefix", "--ignore-errors", "-l", "app.kubernetes.io/name=sealvol", "--tail=-1", "--max-log-requests=50", since},
		"sealvol-previous":  {"-n", c.System, "logs", "--all-containers", "--prefix", "--ignore-errors", "-l", "app.kubernetes.io/name=sealvol", "--tail=1000", "--max-log-requests=50", "-p"},
		"snapshot-logs.txt": {"-n", "kube-system", "logs", "-l", "app=snapshot-controller", "--tail=-1", since},
	} {
		text, err := c.run(ctx, "", "kubectl", args...)
		if err != nil {
			text += "\n" + err.Error()
		}
		c.keep(filepath.Join(dir, file), text)
	}
	var mounts strings.Builder
	for _, m := range Mounts() {
		fmt.Fprintf(&mounts, "%+v\n", m)
	}
	c.keep(filepath.Join(dir, "mounts.txt"), mounts.String())
	logs, _ := filepath.Glob(filepath.Join(os.Getenv("CLUSTER_STATE"), "nodes", "*", "log", "kubelet.log"))
	for _, l := range logs {
		text, err := c.run(ctx, "", "tail", "-n", "3000", l)
		if err != nil {
			text += err.Error()
		}
		c.keep(filepath.Join(dir, "kubelet-"+filepath.Base(filepath.Dir(filepath.Dir(l)))+".log"), text)
	}
	c.t.Logf("logs and objects are in %s", dir)
}

func (c *Cluster) keep(file, text string) {
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		c.t.Log(err)
	}
}
