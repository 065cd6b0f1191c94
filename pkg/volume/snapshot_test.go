package volume

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func TestSnapshotSmoke(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	a, err := v.Mknod(crashReq, vfs.RootIno, "f", 0o644, 0)
	if err != nil {
		t.Fatal(err)
	}
	write := func(n int) {
		t.Helper()
		if _, err := v.Write(crashReq, a.Ino, 0, bytes.Repeat([]byte{byte(n)}, 300_000), false); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		write(i)
		if _, err := v.CreateSnapshot(fmt.Sprint("s", i)); err != nil {
			t.Fatal(err)
		}
		if _, err := v.CreateSnapshot(fmt.Sprint("s", i)); !errors.Is(err, ErrSnapshotExists) {
			t.Fatal(err)
		}
		checkNow(t, v, dev)
	}
	write(9)
	for _, n := range []string{"s2", "s4", "s0", "s1", "s3"} {
		infos, err := v.Snapshots()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", infos)
		if err := v.DeleteSnapshot(n); err != nil {
			t.Fatal(err)
		}
		checkNow(t, v, dev)
		if err := v.WaitFreed(); err != nil {
			t.Fatal(err)
		}
		checkNow(t, v, dev)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cleanErr(dev); err != nil {
		t.Fatal(err)
	}
}

// checkNow runs fsck on the newest root of a volume in use.
func checkNow(t testing.TB, v *Volume, dev *device.Mem) {
	t.Helper()
	if err := v.Sync(vfs.RootIno); err != nil {
		t.Fatal(err)
	}
	if err := cleanErr(dev.Clone()); err != nil {
		t.Fatal(err)
	}
}
