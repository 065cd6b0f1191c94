package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

const (
	// Timeout of a single wait.
	Timeout = 2 * time.Minute
	// testTimeout limits a test; Deadline changes it.
	testTimeout = 8 * time.Minute
	// cleanTimeout limits deleting a namespace with all its volumes.
	cleanTimeout = 3 * time.Minute
)

// Class is the StorageClass of the chart.
const Class = "sealvol"

// Cluster is the cluster from the view of one test. Its methods end the test if something fails.
type Cluster struct {
	t        *testing.T
	ctx      context.Context // ends with the test's deadline
	client   client.WithWatch
	watchdog *time.Timer
	began    time.Time

	// Namespace is the test's own namespace, which New creates and deletes.
	Namespace string
	// System is the namespace in which Sealvol is installed.
	System string
}

var unfit = regexp.MustCompile(`[^a-z0-9]+`)

// New gives a test a namespace of its own. At the end of the test everything in it is deleted, and
// its volumes must be gone.
func New(t *testing.T) *Cluster {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &Cluster{t: t, ctx: ctx, client: newClient(t), began: time.Now(), System: env(t, "SEALVOL_NAMESPACE")}
	c.watchdog = time.AfterFunc(testTimeout, func() {
		AbortMounts()
		cancel()
	})
	name := strings.Trim(unfit.ReplaceAllString(strings.ToLower(strings.TrimPrefix(t.Name(), "Test")), "-"), "-")
	c.Namespace = fmt.Sprintf("e2e-%s-%x", name[:min(len(name), 40)], c.began.UnixMilli()&0xffffff)
	t.Cleanup(func() {
		if t.Failed() {
			c.collect()
		}
		c.clean()
		c.watchdog.Stop()
		cancel()
	})
	c.Kubectl("create", "namespace", c.Namespace)
	return c
}

// Deadline sets the remaining time of the test; the default is 8 minutes from its start.
func (c *Cluster) Deadline(d time.Duration) { c.watchdog.Reset(d) }

// Context ends with the test's deadline.
func (c *Cluster) Context() context.Context { return c.ctx }

// Client returns a client for everything that the other methods do not cover.
func (c *Cluster) Client() client.WithWatch { return c.client }

func env(t *testing.T, name string) string {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		t.Fatalf("%s is not set: run `make e2e`", name)
	}
	return v
}

func newClient(t *testing.T) client.WithWatch {
	t.Helper()
	log.SetLogger(logr.Discard()) // errors are reported anyway
	config, err := clientcmd.BuildConfigFromFlags("", env(t, "KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// run runs a program until it ends or the test's deadline has passed.
func (c *Cluster) run(ctx context.Context, stdin string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 5 * time.Second // for children that keep its output open
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

func (c *Cluster) kubectl(stdin string, args ...string) (string, error) {
	if c.Namespace != "" {
		args = append([]string{"--namespace", c.Namespace}, args...)
	}
	return c.run(c.ctx, stdin, "kubectl", args...)
}

// Kubectl runs kubectl in the test's namespace and returns its output.
func (c *Cluster) Kubectl(args ...string) string {
	c.t.Helper()
	out, err := c.kubectl("", args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// TryKubectl is Kubectl for commands that may fail; it also returns the output of a failed command.
func (c *Cluster) TryKubectl(args ...string) (string, error) { return c.kubectl("", args...) }

// KubectlFails runs kubectl, expects it to fail, and returns its output.
func (c *Cluster) KubectlFails(args ...string) string {
	c.t.Helper()
	out, err := c.kubectl("", args...)
	if err == nil {
		c.t.Fatalf("kubectl %s: succeeded: %s", strings.Join(args, " "), out)
	}
	return err.Error()
}

// Apply applies manifests in the test's namespace.
func (c *Cluster) Apply(manifests string) {
	c.t.Helper()
	if err := c.TryApply(manifests); err != nil {
		c.t.Fatal(err)
	}
}

// TryApply is Apply for manifests that may be refused.
func (c *Cluster) TryApply(manifests string) error {
	_, err := c.kubectl(manifests, "apply", "-f", "-")
	return err
}

// Exec runs a command in a pod's first container.
func (c *Cluster) Exec(pod string, command ...string) string {
	c.t.Helper()
	out, err := c.TryExec(pod, command...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// TryExec is Exec for a command that may fail.
func (c *Cluster) TryExec(pod string, command ...string) (string, error) {
	return c.kubectl("", append([]string{"exec", pod, "--"}, command...)...)
}

// Shell runs a script in a pod.
func (c *Cluster) Shell(pod, script string) string {
	c.t.Helper()
	return c.Exec(pod, "sh", "-ec", script)
}

// Logs returns what a pod has printed.
func (c *Cluster) Logs(pod string) string {
	c.t.Helper()
	return c.Kubectl("logs", pod, "--all-containers")
}

// DeletePod deletes a pod and waits until it is gone.
func (c *Cluster) DeletePod(name string) {
	c.t.Helper()
	c.Kubectl("delete", "pod", name, "--wait=false")
	c.Gone(&corev1.Pod{}, name)
}

// Volume returns the PersistentVolume that a claim is bound to.
func (c *Cluster) Volume(claim string) *corev1.PersistentVolume {
	c.t.Helper()
	pvc := c.ClaimBound(claim)
	pv := &corev1.PersistentVolume{}
	if err := c.client.Get(c.ctx, client.ObjectKey{Name: pvc.Spec.VolumeName}, pv); err != nil {
		c.t.Fatal(err)
	}
	return pv
}

// OnNode runs a command in the namespaces of a node, by its name.
func (c *Cluster) OnNode(node string, command ...string) string {
	c.t.Helper()
	out, err := c.TryOnNode(node, command...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// TryOnNode is OnNode for a command that may fail.
func (c *Cluster) TryOnNode(node string, command ...string) (string, error) {
	pid, err := os.ReadFile(filepath.Join(stateOf(node), "node.pid"))
	if err != nil {
		return "", err
	}
	return c.run(c.ctx, "", "nsenter", append([]string{"-t", strings.TrimSpace(string(pid)), "-m", "-p", "-n", "-u", "-i", "--"}, command...)...)
}

// Cut disconnects a node from the network, or connects it again. Programs on it keep running.
func (c *Cluster) Cut(node string, off bool) {
	c.t.Helper()
	rules := "add table inet cut\ndelete table inet cut\n" // works even if there is no such table
	if off {
		rules += "add table inet cut\n"
		for _, hook := range []string{"input", "output", "forward"} {
			rules += fmt.Sprintf("add chain inet cut %[1]s { type filter hook %[1]s priority -300; }\n", hook)
		}
		rules += "add rule inet cut input iifname eth0 drop\nadd rule inet cut output oifname eth0 drop\nadd rule inet cut forward iifname eth0 drop\nadd rule inet cut forward oifname eth0 drop\n"
	}
	if _, err := c.run(context.Background(), rules, "nsenter", "--net="+filepath.Join("/run/netns", node), "nft", "-f", "-"); err != nil {
		c.t.Error(err)
	}
}

// stateOf returns the directory of a node, whose name ends in its number.
func stateOf(node string) string {
	return filepath.Join(os.Getenv("CLUSTER_STATE"), "nodes", node[strings.LastIndexByte(node, '-')+1:])
}

// HostPath returns the path on this machine of a path below /var/lib/sealvol of a node.
func HostPath(node, path string) string { return filepath.Join(stateOf(node), "data", path) }

// Nodes returns the names of the nodes on which the driver is registered.
func (c *Cluster) Nodes() []string {
	c.t.Helper()
	var list storagev1.CSINodeList
	if err := c.client.List(c.ctx, &list); err != nil {
		c.t.Fatal(err)
	}
	var names []string
	for _, n := range list.Items {
		for _, d := range n.Spec.Drivers {
			if d.Name == "csi.sealvol.dev" {
				names = append(names, n.Name)
			}
		}
	}
	return names
}
