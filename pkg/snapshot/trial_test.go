package snapshot_test

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/snapshot/trial"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/volumetest"
)

// TestTrial restores a snapshot into a scratch volume, in which everything but the last thing is
// wrong, and which is found to differ for that.
func TestTrial(t *testing.T) {
	h := volumetest.NewHistory(t, 7, 128<<20)
	req := &vfs.Req{}
	a, err := h.V.Mknod(req, vfs.RootIno, "trial-file", unix.S_IFREG|0o600, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.V.Write(req, a.Ino, 0, make([]byte, 5000), false); err != nil {
		t.Fatal(err)
	}
	h.Steps(150)
	r := newHistoryRig(t, h, snapstore.Options{})
	rep := r.put("", h.Snapshot(), r.options(nil))
	h.Close()
	sn := r.read(rep.S)
	defer sn.Close()
	for name, spoil := range map[string]func(v *volume.Volume) error{
		"nothing": nil,
		"a byte": func(v *volume.Volume) error {
			_, err := v.Write(req, a.Ino, 4999, []byte{1}, false)
			return err
		},
		"a mode": func(v *volume.Volume) error {
			_, err := v.SetAttr(req, a.Ino, &vfs.SetAttr{Mode: new(uint32(0o640))})
			return err
		},
		"an attribute": func(v *volume.Volume) error { return v.SetXattr(req, a.Ino, "user.more", nil, 0) },
		"a name":       func(v *volume.Volume) error { return v.Rename(req, vfs.RootIno, "trial-file", vfs.RootIno, "other", 0) },
		"a file":       func(v *volume.Volume) error { return v.Unlink(req, vfs.RootIno, "trial-file") },
	} {
		dev := device.NewMem(160 << 20)
		x, err := trial.Restore(t.Context(), sn, dev, trial.Options{Store: r.store.Description(), Tenant: r.tenant.Keys, Memory: 64 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if spoil != nil {
			v, err := volume.Open(dev, volume.Options{Credential: x.Credential(), CommitInterval: -1})
			if err == nil {
				err = errors.Join(spoil(v), v.Close())
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if err := x.Compare(t.Context()); errors.Is(err, trial.ErrDiffers) != (spoil != nil) || err != nil && spoil == nil {
			t.Errorf("%s: %v", name, err)
		}
		x.Close()
	}
	if _, err := trial.Restore(t.Context(), sn, device.NewMem(8<<20), trial.Options{Store: r.store.Description(), Tenant: r.tenant.Keys}); err == nil || errors.Is(err, trial.ErrDiffers) {
		t.Errorf("a device that is too small: %v", err)
	}
}
