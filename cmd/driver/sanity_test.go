package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"

	"github.com/sealvol/sealvol/pkg/mounter/mountertest"
)

// allowedSkips are specs of capabilities that are not advertised. Every other skipped spec fails
// the test.
var allowedSkips = []string{
	"SNAPSHOT_ACCESSIBILITY_CONSTRAINTS not supported",
	"Modify volume not supported", "Modify Volume not supported", "ControllerModifyVolume not supported",
	"GroupControllerService not supported", "VolumeGroupSnapshots not supported",
}

// pendingUpstream is the only spec that csi-test itself has disabled.
const pendingUpstream = "pagination should detect volumes added between pages"

// selfAttachSkips are additional ones if the node attaches and grows.
var selfAttachSkips = []string{
	"Controller Publish, UnpublishVolume not supported", "ControllerPublishVolume not supported", "ControllerUnpublishVolume not supported",
	"Controller expand volume not supported", "ControllerExpandVolume not supported",
}

const (
	envAccess     = "SEALVOL_TEST_ACCESS"      // "block": TestSanity uses raw block volumes
	envSelfAttach = "SEALVOL_TEST_SELF_ATTACH" // "1": its driver attaches itself
	envBackend    = "SEALVOL_TEST_BACKEND"     // "ebs": it uses volumes of a simulated EC2
)

// TestSanityBlock is TestSanity with raw block volumes, TestSanitySelfAttach with a driver that
// attaches itself, and TestSanityEBS with the ebs backend.
func TestSanityBlock(t *testing.T)      { sanityAgain(t, envAccess+"=block") }
func TestSanitySelfAttach(t *testing.T) { sanityAgain(t, envSelfAttach+"=1") }
func TestSanityEBS(t *testing.T)        { sanityAgain(t, envBackend+"=ebs") }

// sanityAgain runs TestSanity in a process of its own, because ginkgo runs only once per process.
func sanityAgain(t *testing.T, env string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestSanity$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), env)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestSanity") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestSanity runs all of csi-sanity against the driver in this process, over its socket, with real
// mounts and with the mounter and mount servers in separate processes.
func TestSanity(t *testing.T) {
	dir := t.TempDir()
	mountertest.Guard(t, dir, 4*time.Minute)
	t.Setenv(mountertest.EnvData, filepath.Join(dir, "data"))
	kubelet := filepath.Join(dir, "kubelet")
	if err := os.Mkdir(kubelet, 0o750); err != nil {
		t.Fatal(err)
	}
	secrets := filepath.Join(dir, "secrets.yaml")
	kek := strings.Repeat("0123456789abcdef", 4)
	if err := os.WriteFile(secrets, fmt.Appendf(nil, "NodeStageVolumeSecret: {kek: %q}\nNodePublishVolumeSecret: {kek: %q}\n", kek, kek), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	endpoint := "unix://" + filepath.Join(dir, "csi.sock")
	args, skips, least := []string(nil), allowedSkips, 85
	if os.Getenv(envSelfAttach) != "" {
		args, skips, least = []string{"--self-attach"}, slices.Concat(allowedSkips, selfAttachSkips), 70
	}
	backendArgs := []string{"--node-id", "node-1", "--local-dir", filepath.Join(dir, "local"), "--max-volumes", "5"}
	if os.Getenv(envBackend) == "ebs" {
		backendArgs, skips, least = newEC2(t, filepath.Join(dir, "ec2")).args, slices.Concat(ebsSkips, allowedSkips), 85
	}
	go func() {
		done <- run(ctx, slices.Concat([]string{"all", "--endpoint", endpoint, "--mounter-dir", filepath.Join(dir, "mounter"), "--kubelet-dir", kubelet, "--log-level", "debug"}, backendArgs, args), io.Discard, io.Discard)
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	config := sanityConfig(endpoint, secrets, kubelet)
	sc := sanity.GinkgoTest(&config)
	defer sc.Finalize()
	var report types.Report
	ginkgo.ReportAfterSuite("nothing advertised is skipped", func(r types.Report) { report = r })
	gomega.RegisterFailHandler(ginkgo.Fail)
	suite, reporter := ginkgo.GinkgoConfiguration()
	suite.RandomSeed = 1
	reporter.NoColor = true
	ginkgo.RunSpecs(t, "csi-sanity", suite, reporter)

	ran := countSpecs(t, report, skips)
	t.Logf("%d specs passed", ran)
	if ran < least {
		t.Errorf("only %d specs ran", ran)
	}
}

func sanityConfig(endpoint, secrets, kubelet string) sanity.TestConfig {
	config := sanity.NewTestConfig()
	config.Address = endpoint
	config.SecretsFile = secrets
	config.StagingPath = filepath.Join(kubelet, "staging")
	config.TargetPath = filepath.Join(kubelet, "target")
	config.TestVolumeSize = 1 << 30
	config.TestVolumeExpandSize = 2 << 30
	config.TestVolumeParameters = map[string]string{"recordSize": "64KiB", "suite": "xchacha20poly1305"}
	if os.Getenv(envBackend) == "ebs" {
		config.TestVolumeParameters["type"] = "gp3"
		config.TestVolumeMutableParameters = map[string]string{"throughput": "200"}
	}
	config.TestNodeVolumeAttachLimit = true
	config.TestVolumeAccessType = os.Getenv(envAccess)
	config.TestSnapshotParameters = map[string]string{"method": "device"}
	return config
}

// countSpecs counts the specs that ran, and fails for those that were skipped unexpectedly.
func countSpecs(t *testing.T, report types.Report, skips []string) (ran int) {
	t.Helper()
	for _, s := range report.SpecReports {
		if s.LeafNodeType != types.NodeTypeIt {
			continue
		}
		switch s.State {
		case types.SpecStatePassed:
			ran++
		case types.SpecStateSkipped:
			if !slices.Contains(skips, s.Failure.Message) {
				t.Errorf("skipped: %s: %s", s.FullText(), s.Failure.Message)
			}
		case types.SpecStatePending:
			if !strings.Contains(s.FullText(), pendingUpstream) {
				t.Errorf("pending: %s", s.FullText())
			}
		default:
			t.Errorf("%s: %s", s.State, s.FullText())
		}
	}
	return ran
}
