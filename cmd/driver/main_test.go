package main

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/sealvol/sealvol/pkg/backend/ebs"
	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
	"github.com/sealvol/sealvol/pkg/mounter/mountertest"
)

// envPatient makes drivers wait as long as the real EC2 requires.
const envPatient = "SEALVOL_TEST_PATIENT"

// envEngine makes mounters start real mount servers.
const envEngine = "SEALVOL_TEST_ENGINE"

func TestMain(m *testing.M) {
	if err := ec2test.Isolate(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	tuneEBS = func(o *ebs.Options) {
		if os.Getenv(envPatient) == "" {
			o.Timing = quickEBS
		}
	}
	mounterProgram = func() []string { return append(mountertest.Command("mounter"), "mounter") }
	mountProgram = func() []string { return mountertest.Command("mount") }
	loopProgram = func() []string { return mountertest.Command("loop") }
	snapshotWorkerProgram = func() []string { return append(mountertest.BareCommand("mounter"), "snapshot-worker") }
	snapshotJob = testJob
	writeBackProgram = func() []string { return append(mountertest.Command("mounter"), "writeback") }
	if os.Getenv(envEngine) != "" {
		mountProgram = func() []string { return append(mountertest.Command("mounter"), "mount") }
	}
	mountertest.Main(map[string]func(context.Context) error{
		"mounter": func(ctx context.Context) error { return run(ctx, os.Args[1:], os.Stdout, os.Stderr) },
		"roots":   func(context.Context) error { return hasRoots() },
		"driver": func(ctx context.Context) error { // a driver that may kill itself
			hook = mountertest.KillHook()
			return run(ctx, os.Args[1:], os.Stdout, os.Stderr)
		},
	})
	os.Exit(m.Run())
}
