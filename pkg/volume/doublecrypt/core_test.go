package doublecrypt

import (
	"errors"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func testCore(t testing.TB, block, blocks int) (*Core, *device.Mem) {
	t.Helper()
	dev := memDevice(t, make([]byte, block*blocks))
	c := newCore(t, dev, testKey(t), block, Options{})
	t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, vfs.ErrReadOnly) {
			t.Error(err)
		}
	})
	return c, dev
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t testing.TB, err error, code Code) {
	t.Helper()
	if CodeOf(err) != code {
		t.Errorf("got %v (code %d), want code %d", err, CodeOf(err), code)
	}
}

// TestNonces checks that the nonces of a volume never repeat, over many commits.
func TestNonces(t *testing.T) {
	c, dev := testCore(t, 4096, 64)
	must(t, c.CreateFile("f"))
	seen := map[string]int{}
	for i := range 60 {
		must(t, c.WriteFile("f", 0, []byte{byte(i)}))
		must(t, c.Flush())
		state := c.v.state.pointer.superblock
		buf := c.v.blk.buffer(1)
		must(t, c.v.blk.read(state, buf))
		e, err := decodeEnvelope(payload(buf))
		must(t, err)
		seen[string(e.nonce)]++
	}
	if len(seen) != 60 {
		t.Errorf("%d nonces of 60 superblocks", len(seen))
	}
	mustClean(t, dev, c.key)
}

// TestExclusive checks that an image cannot be opened twice, because that would lose data.
func TestExclusive(t *testing.T) {
	path := t.TempDir() + "/image"
	dev := mustCreate(t, path, 64*4096)
	defer func() { must(t, dev.Close()) }()
	if _, err := device.Open(path, device.OpenOptions{}); !errors.Is(err, device.ErrInUse) {
		t.Errorf("second opener: %v", err)
	}
}

// TestCommitInterval checks that the volume commits automatically.
func TestCommitInterval(t *testing.T) {
	dev := device.NewMem(4096 * 64)
	key := testKey(t)
	must(t, Format(dev, key, 4096, 0, Options{}))
	synced := make(chan struct{}, 100)
	fault := device.NewFault(dev, func(_ int, op device.Op, _ int64, _ int) error {
		if op == device.OpSync {
			synced <- struct{}{}
		}
		return nil
	})
	v := mustOpen(t, fault, key, Options{CommitInterval: time.Millisecond})
	_, err := v.Mknod(nil, vfs.RootIno, "f", 0, 0)
	must(t, err)
	<-synced
	<-synced
	must(t, v.Close())
	mustClean(t, dev, key)
}
