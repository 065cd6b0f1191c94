//go:build e2e_ebs

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

// The stories with this file's build tag run with the chart's ebs backend, against a simulated EC2:
// it listens at the API server's address, in the network namespace of the first node, and gives the
// nodes block devices. That namespace has no route to the outside.

func init() { prepare = startEBS }

// ec2 is the simulated EC2. Each node finds its own devices in its /var/lib/sealvol/ec2.
var ec2 *ec2test.Server

// ec2Delays are a fifth of the real ones.
var ec2Delays = ec2test.Delays{Create: 300 * time.Millisecond, Delete: 200 * time.Millisecond, Attach: 400 * time.Millisecond, Detach: 400 * time.Millisecond, Modify: 400 * time.Millisecond,
	Optimize: time.Second, Snapshot: 600 * time.Millisecond, Lag: 50 * time.Millisecond, Answer: 5 * time.Millisecond}

// instances are the instances of the nodes, in order. The second one is small: it has room for
// smallRoom volumes and its root volume.
var instances = []ec2test.Instance{{ID: "i-0123456789abcdef0"}, {ID: "i-0123456789abcdef1", Type: "tiny"}}

const smallRoom = 4

// nodeNames are the names of the two nodes.
var nodeNames []string

// chartValues are the values that a user sets, and the address of the simulated EC2.
const chartValues = `
backend: ebs
ebs:
  clusterID: e2e
  region: test-1
  endpoints: {ec2: %[1]q, sts: "", metadata: ""}
  metadataSources: [kubernetes]
  tags: {team: "storage"}
  attachLimitUpdateSeconds: 10
storageClass: {parameters: {type: gp3}}
sidecars: {leaderElection: {leaseDuration: 8s, renewDeadline: 5s, retryPeriod: 1s}} # not to wait
volumeAttributesClasses:
  - {name: sealvol-fast, parameters: {type: gp3, throughput: 250}}
  - {name: sealvol-absurd, parameters: {iops: 4000}}
controller:
  extraEnv: &environment
    - {name: AWS_ACCESS_KEY_ID, value: test}
    - {name: AWS_SECRET_ACCESS_KEY, value: test}
    - {name: AWS_EC2_METADATA_DISABLED, value: "true"}
    - {name: AWS_ENDPOINT_URL, value: %[1]q}
node:
  extraEnv: *environment
  extraArgs: [--sys-dir=/var/lib/sealvol/ec2/sys, --links-dir=/var/lib/sealvol/ec2/dev]
`

func startEBS() (func(failed bool) error, error) {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return nil, err
	}
	if err := startEC2(config); err != nil {
		return nil, err
	}
	release, namespace := []string{"sealvol", "--namespace", os.Getenv("SEALVOL_NAMESPACE"), "--wait"}, "--create-namespace"
	values := filepath.Join(os.Getenv("E2E_OUT"), "values.yaml")
	err = os.WriteFile(values, fmt.Appendf(nil, chartValues, ec2.URL()), 0o644)
	if err == nil {
		err = helm(append([]string{"uninstall", "--ignore-not-found"}, release...)...) // a release with the local backend
	}
	if err == nil {
		err = helm(append([]string{"install", namespace, "--values", values, "--timeout", "3m", release[0], "../../charts/sealvol"}, release[1:]...)...)
	}
	if err != nil {
		return nil, errors.Join(err, ec2.Close())
	}
	return func(failed bool) error {
		var left error
		if !failed { // all stories have deleted their volumes
			left = nothingLeft()
		}
		return errors.Join(left, helm(append([]string{"uninstall"}, release...)...), ec2.Close())
	}, nil
}

// startEC2 starts the simulated EC2 and makes the nodes its instances, like a cloud provider.
func startEC2(config *rest.Config) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	nodes, err := clients.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if len(nodes.Items) != len(instances) {
		return fmt.Errorf("these stories need %d nodes", len(instances))
	}
	for i := range nodes.Items {
		nodeNames = append(nodeNames, nodes.Items[i].Name)
	}
	slices.Sort(nodeNames)
	u, err := url.Parse(config.Host)
	if err != nil {
		return err
	}
	l, err := listenIn(nodeNames[0], net.JoinHostPort(u.Hostname(), "4980"))
	if err != nil {
		return err
	}
	if ec2, err = ec2test.New(ec2test.Options{Region: "test-1", Listener: l, Disks: filepath.Join(os.Getenv("CLUSTER_STATE"), "ec2"), Delays: ec2Delays}); err != nil {
		return errors.Join(err, l.Close())
	}
	for i, n := range nodeNames {
		instances[i].Dir = filepath.Join(os.Getenv("CLUSTER_STATE"), "nodes", fmt.Sprint(i+1), "data/ec2")
		err := os.MkdirAll(filepath.Join(instances[i].Dir, "sys/class/block"), 0o755)
		ec2.AddInstance(instances[i])
		if err == nil {
			_, err = clients.CoreV1().Nodes().Patch(ctx, n, types.StrategicMergePatchType, fmt.Appendf(nil, `{"spec": {"providerID": "aws:///test-1a/%s"},
				"metadata": {"labels": {%q: "test-1a", %q: "test-1", %q: %q}}}`, instances[i].ID, corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelInstanceTypeStable, instances[i].Type), metav1.PatchOptions{})
		}
		if err != nil {
			return errors.Join(err, ec2.Close())
		}
	}
	return nil
}

// listenIn listens in a network namespace.
func listenIn(netns, address string) (l net.Listener, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the function
		var f *os.File
		if f, err = os.Open(filepath.Join("/run/netns", netns)); err != nil {
			return
		}
		defer f.Close()
		if err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err == nil {
			l, err = net.Listen("tcp", address)
		}
	}()
	<-done
	return l, err
}

func helm(args ...string) error {
	if out, err := exec.Command("helm", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("helm %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// nothingLeft checks that EC2 has no volumes and snapshots left, and got no forbidden request.
func nothingLeft() error {
	err := ec2.Consistent()
	for _, v := range ec2.Volumes() {
		if v.State != "deleting" {
			err = errors.Join(err, fmt.Errorf("a volume is left: %+v", v))
		}
	}
	for _, s := range ec2.Snapshots() {
		err = errors.Join(err, fmt.Errorf("snapshot %s is left", s))
	}
	for _, s := range ec2.Strange() {
		err = errors.Join(err, errors.New(s))
	}
	return err
}
