package main

import (
	"context"
	"io"
	"testing"

	"github.com/sealvol/sealvol/pkg/mounter/mountertest"
)

// TestProbe: a driver that answers is alive, one with its mounter is ready, a stopped one is
// neither.
func TestProbe(t *testing.T) {
	r := newRig(t)
	r.self = true
	r.start("mounter", 0)
	r.start("all", 0)
	r.connect("all", "all")
	probe := func(ok bool, args ...string) {
		t.Helper()
		err := run(context.Background(), append([]string{"probe", "--timeout", "2s"}, args...), io.Discard, io.Discard)
		if (err == nil) != ok {
			t.Fatalf("%v: %v", args, err)
		}
	}
	driver := []string{"--endpoint", "unix://" + r.path("all.sock")}
	probe(true, driver...)
	probe(true, append(driver, "--ready")...)
	probe(true, "--mounter-dir", r.path("mounter"))
	r.kill("mounter")
	probe(true, driver...)
	probe(false, append(driver, "--ready")...)
	probe(false, "--mounter-dir", r.path("mounter"))
	mountertest.Halt(t, r.cmds["all"].Process.Pid)
	probe(false, driver...)
}
