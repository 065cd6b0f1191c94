package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/pkg/mounter"
)

// TestEngine uses a real, encrypted volume: synced data is there after the SIGKILL of its server
// and of the plugin, and after every mount. The image contains no plaintext. Another key does not
// open it.
func TestEngine(t *testing.T) {
	t.Setenv(envEngine, "1")
	r := newRig(t)
	r.start("all", 0)
	r.connect("all", "all")
	w := &workflow{r: r}
	w.run(w.up())
	content := func(i int) []byte { return bytes.Repeat(fmt.Appendf(nil, "plaintext of file %d. ", i), 1+i*97) }
	name := func(i int) string { return filepath.Join(w.target(), "dir", fmt.Sprintf("secretname-%d", i)) }
	check := func() {
		t.Helper()
		for i := range 100 {
			if b, err := os.ReadFile(name(i)); err != nil || !bytes.Equal(b, content(i)) {
				t.Fatalf("file %d: %d bytes, %v", i, len(b), err)
			}
		}
	}
	if err := os.Mkdir(filepath.Join(w.target(), "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if err := writeDurably(name(i), content(i)); err != nil {
			t.Fatal(err)
		}
	}
	check()
	st, err := r.node.NodeGetVolumeStats(r.ctx(), &csi.NodeGetVolumeStatsRequest{VolumeId: w.id, VolumePath: w.target()})
	if err != nil || st.GetUsage()[0].GetUsed() <= 0 || st.GetUsage()[0].GetTotal() > size || len(st.GetUsage()) != 2 {
		t.Fatal(st, err)
	}

	// The server dies: the republish mounts the volume again.
	m := mounter.Client{Socket: mounter.SocketPath(r.path("mounter"))}
	h, err := m.Health(r.ctx(), w.id)
	if err != nil {
		t.Fatal(err)
	}
	kill(t, h.PID)
	for err = unix.EIO; errors.Is(err, unix.EIO); {
		_, err = os.Stat(name(0))
	}
	if err == nil {
		t.Fatal("the dead server answers")
	}
	w.run(w.up())
	check()
	// The plugin dies.
	r.kill("all")
	check()
	r.start("all", 0)
	r.connect("all", "all")
	// Unmounted, refused with another key, and mounted again.
	w.run(w.down()[:2])
	_, err = r.node.NodeStageVolume(r.ctx(), &csi.NodeStageVolumeRequest{VolumeId: w.id, StagingTargetPath: w.staging(), VolumeCapability: multiWriter(),
		VolumeContext: w.context, Secrets: map[string]string{"kek": strings.Repeat("f", 64)}})
	if status.Code(err) != codes.Unauthenticated {
		t.Fatal(err)
	}
	image, err := os.ReadFile(r.path("local/images/" + w.id + ".img"))
	if err != nil || bytes.Contains(image, []byte("plaintext of")) || bytes.Contains(image, []byte("secretname")) {
		t.Fatalf("plaintext on the device, %v", err)
	}
	w.run(w.up())
	check()
	w.run(w.down())
	r.wantClean()
}
