//go:build !race

// The race detector needs several times the memory of what it watches.

package snapshot_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/create"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/volumetest"
)

var (
	memoryFiles = flag.Int("snapshot.files", 20_000, "number of files of TestMemory")
	memoryMiB   = flag.Int("snapshot.mib", 192, "MiB of random data of TestMemory")
)

const (
	memoryEnv = "SEALVOL_TEST_SNAPSHOT_MEMORY"
	// workerBytes is what a worker may use, and workerLimit the memory limit that it sets.
	workerBytes = 128 << 20
	workerLimit = workerBytes / 4 * 3
)

// memoryJob is what the other process does.
type memoryJob struct {
	Device, Store string
	From, To      string // local snapshots
	Base          string // handle of From; "": none
}

// TestMemory makes snapshots of many files, of a large and of a sparse one in a process of its own,
// and bounds the memory of that.
func TestMemory(t *testing.T) {
	if s := os.Getenv(memoryEnv); s != "" {
		memoryChild(t, s)
		return
	}
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	f, err := os.Create(image)
	ok(t, err)
	ok(t, f.Truncate(int64(*memoryMiB)*5/4<<20+int64(*memoryFiles)*10240+512<<20))
	ok(t, f.Close())
	dev, err := device.Open(image, device.OpenOptions{})
	ok(t, err)
	ok(t, volume.Format(dev, volume.FormatOptions{Recipient: volumetest.NewKey(t)}))
	v := volumetest.Mount(t, dev)
	store, err := chunkstore.Open(t.Context(), "file://"+filepath.Join(dir, "store"), true)
	ok(t, err)
	_, _, err = snapstore.Create(t.Context(), store, snapstore.Options{})
	ok(t, err)
	job := memoryJob{Device: image, Store: "file://" + filepath.Join(dir, "store")}
	for i, x := range []struct {
		what string
		do   func()
	}{
		{"files", func() { memoryManyFiles(t, v) }},
		{"sparse", func() { memorySparse(t, v) }},
		{"random", func() { memoryRandom(t, v) }},
		{"a block", func() { memoryBlock(t, v) }},
	} {
		x.do()
		ok(t, v.Sync(vfs.RootIno))
		job.From, job.To = job.To, fmt.Sprint("s", i)
		_, err := v.CreateSnapshot(job.To)
		ok(t, err)
		full := job
		full.From, full.Base = "", ""
		handle := memoryRun(t, x.what, &job)
		if i == 2 {
			memoryRun(t, x.what+", full", &full)
			full.Base = handle
			memoryRun(t, x.what+", full with a base", &full)
		}
		job.Base = handle
	}
	ok(t, v.Close())
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func memoryManyFiles(t *testing.T, v *volume.Volume) {
	var dir vfs.Ino
	for i := range *memoryFiles {
		if i%1000 == 0 {
			a, err := v.Mkdir(&vfs.Req{}, vfs.RootIno, fmt.Sprint("d", i), 0o755)
			ok(t, err)
			dir = a.Ino
		}
		a, err := v.Mknod(&vfs.Req{}, dir, fmt.Sprint("file", i), 0o100644, 0)
		ok(t, err)
		_, err = v.Write(&vfs.Req{}, a.Ino, 0, bytes.Repeat([]byte(fmt.Sprint(i)), i%1000), false)
		ok(t, err)
	}
}

func memorySparse(t *testing.T, v *volume.Volume) {
	a, err := v.Mknod(&vfs.Req{}, vfs.RootIno, "sparse", 0o100644, 0)
	ok(t, err)
	for i := range uint64(8000) {
		_, err := v.Write(&vfs.Req{}, a.Ino, i*(1<<40/8000), []byte(fmt.Sprint("block", i)), false)
		ok(t, err)
	}
}

func memoryRandom(t *testing.T, v *volume.Volume) {
	a, err := v.Mknod(&vfs.Req{}, vfs.RootIno, "random", 0o100644, 0)
	ok(t, err)
	rng, b := rand.NewChaCha8([32]byte{9}), make([]byte, 1<<20)
	for i := range *memoryMiB {
		_, _ = rng.Read(b)
		for off := 0; off < len(b); {
			n, err := v.Write(&vfs.Req{}, a.Ino, uint64(i<<20+off), b[off:], false)
			ok(t, err)
			off += n
		}
	}
}

func memoryBlock(t *testing.T, v *volume.Volume) {
	a, err := v.Lookup(vfs.RootIno, "random")
	ok(t, err)
	_, err = v.Write(&vfs.Req{}, a.Ino, 1<<20, []byte("changed"), false)
	ok(t, err)
}

// memoryRun makes a snapshot in another process, and returns its identity.
func memoryRun(t *testing.T, what string, job *memoryJob) string {
	t.Helper()
	b, err := json.Marshal(job)
	ok(t, err)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMemory$", "-test.v")
	cmd.Env = append(os.Environ(), memoryEnv+"="+string(b))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", what, err, out)
	}
	_, rest, _ := strings.Cut(string(out), "RESULT ")
	line, _, _ := strings.Cut(rest, "\n")
	var peak int64
	var id, report string
	if _, err := fmt.Sscan(line, &peak, &id, &report); err != nil {
		t.Fatalf("%s: %s", what, out)
	}
	t.Logf("%s: %d MiB, %s", what, peak>>20, report)
	if peak > workerBytes {
		t.Errorf("%s: a snapshot took %d MiB", what, peak>>20)
	}
	return id
}

func memoryChild(t *testing.T, s string) {
	debug.SetMemoryLimit(workerLimit)
	var job memoryJob
	ok(t, json.Unmarshal([]byte(s), &job))
	dev, err := device.Open(job.Device, device.OpenOptions{ReadOnly: true, Shared: true})
	ok(t, err)
	objects, err := chunkstore.Open(t.Context(), job.Store, false)
	ok(t, err)
	store, err := snapstore.Open(t.Context(), objects)
	ok(t, err)
	secret, err := crypto.NewKey(bytes.Repeat([]byte{3}, crypto.KeyBytes))
	ok(t, err)
	tenant, err := snapstore.NewTenant(secret)
	ok(t, err)
	key := volumetest.NewKey(t)
	src, err := pinned.Open(dev, pinned.Options{Credential: key, Memory: 8 << 20})
	ok(t, err)
	to, err := src.Snapshot(job.To)
	ok(t, err)
	o := create.Options{Store: objects, StoreID: store.ID(), Format: store.Description(), Tenant: tenant.Keys, Suite: 1,
		Recipients: []crypto.Recipient{key}, Writer: "test", Who: "test"}
	var from *pinned.State
	if job.Base != "" {
		r := &rig{t: t, store: store, cred: key}
		base := r.id(job.Base)
		o.Base = &create.Base{S: base, Open: r.open(base)}
	}
	if job.Base != "" && job.From != "" {
		from, err = src.Snapshot(job.From)
		ok(t, err)
	}
	rep, err := create.Run(t.Context(), src.Identity(), from, to, o)
	ok(t, err)
	fmt.Printf("\nRESULT %d %s files:%d,read:%d,stored:%d,took:%v,full:%t\n", peakRSS(t), rep.S, rep.Files, rep.Read, rep.Stored.Bytes, rep.Took, rep.Full != "")
}

// peakRSS is the most memory that this process has had.
func peakRSS(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	ok(t, err)
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kib int64
	_, err = fmt.Sscan(rest, &kib)
	ok(t, err)
	return kib << 10
}
