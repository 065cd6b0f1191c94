package operatortest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// StartControllers runs Kubernetes' controllers that delete namespaces, protect claims and volumes,
// and check the types in admission policies, until stop is called.
func (e *Env) StartControllers() (stop func() error, err error) {
	dir, err := os.MkdirTemp("", "operatortest")
	if err != nil {
		return nil, err
	}
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := WriteKubeconfig(kubeconfig, e.Config); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(Bin(), "kube-controller-manager"), "--kubeconfig", kubeconfig, "--leader-elect=false",
		"--controllers=namespace-controller,persistentvolumeclaim-protection-controller,persistentvolume-protection-controller,validatingadmissionpolicy-status-controller",
		"--secure-port=0", "--concurrent-namespace-syncs=20", "--kube-api-qps=500", "--kube-api-burst=1000", "--use-service-account-credentials=false", "--v=1")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // stop kills it; its log has the reason if it ends otherwise
		close(ended)
	}()
	stop = func() error {
		err := cmd.Process.Kill()
		<-ended
		return errors.Join(err, os.RemoveAll(dir))
	}
	if err := e.awaitControllers(ended); err != nil {
		b, _ := os.ReadFile(log.Name())
		return nil, errors.Join(fmt.Errorf("%w: %s", err, b[max(0, len(b)-2000):]), stop())
	}
	return stop, nil
}

// awaitControllers waits until the namespace controller deletes a namespace.
func (e *Env) awaitControllers(ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "probe-"}}
	if err := e.Client.Create(ctx, ns); err != nil {
		return err
	}
	if err := e.Client.Delete(ctx, ns); err != nil {
		return err
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := e.Client.Get(ctx, client.ObjectKeyFromObject(ns), ns); apierrors.IsNotFound(err) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ended:
			return errors.New("kube-controller-manager ended")
		case <-ctx.Done():
			return errors.New("kube-controller-manager does not delete namespaces")
		}
	}
}
