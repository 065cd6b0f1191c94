package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/sealvol/sealvol/pkg/operator/operatortest"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestServes: an operator serves probes and metrics, and only one of two operators leads.
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
		// The first one leads, the other one waits.
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

// freePorts returns two free addresses.
func freePorts(t *testing.T) (list [2]string) {
	t.Helper()
	var ls []net.Listener // keep both open, so that they differ
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
	defer func() { _ = resp.Body.Close() }() // the body is read to its end below
	b, err := io.ReadAll(resp.Body)
	for _, w := range want {
		if err == nil && (resp.StatusCode != http.StatusOK || !strings.Contains(string(b), w)) {
			err = fmt.Errorf("%s: %s, without %s", url, resp.Status, w)
		}
	}
	return err
}

// TestFlags: wrong flags are reported before anything is done.
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
