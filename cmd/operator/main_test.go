package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/operator"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

var env *operatortest.Env

// asOperator is an environment variable that makes this test binary run as the operator.
const asOperator = "SEALVOL_TEST_OPERATOR"

func TestMain(m *testing.M) {
	if os.Getenv(asOperator) != "" {
		main()
		return
	}
	operatortest.Main(m, func(e *operatortest.Env) { env = e }, func() error { return nil })
}

var kills = flag.Int("kills", 40, "how many times to kill the operator")

// process is an operator process with the rights that the chart gives it.
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
		_ = cmd.Process.Kill() // the process may have ended
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

// syncBuffer is a log to which several processes write.
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

// TestKilledAnywhere kills the operator again and again while claims and volumes are created and
// deleted. In the end, everything is consistent, every claim had one key all the time, and no key
// was logged.
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
		_ = p.end(t, syscall.SIGKILL) // the error says that it was killed
	}
	close(stop)
	<-stopped
	p := startProcess(t, config, &log)
	users.settle()
	if err := p.end(t, syscall.SIGTERM); err != nil {
		t.Errorf("the operator exited with an error: %v\n%s", err, tail(log.String()))
	}
	cancel()
	if err := <-watched; err != nil {
		t.Error(err)
	}
	if err := w.check(); err != nil {
		t.Error(err)
	}
	if len(w.made) < 10 {
		t.Errorf("only %d keys were created", len(w.made))
	}
	t.Logf("%d claims, %d keys", users.n, len(w.made))
	untold(t, c, w.all, log.String())
}

func tail(s string) string { return s[max(0, len(s)-2000):] }

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
			t.Fatal("timed out: ", err)
		}
	}
}
