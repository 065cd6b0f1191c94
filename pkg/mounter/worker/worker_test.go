package worker

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

// TestCheckStatus: a process that lacks any of the restrictions gets no keys. This process lacks
// them all.
func TestCheckStatus(t *testing.T) {
	good := "Name:\tdriver\nNoNewPrivs:\t1\nSeccomp:\t0\n"
	for _, n := range []string{"Inh", "Prm", "Eff", "Bnd", "Amb"} {
		good += "Cap" + n + ":\t0000000000000000\n"
	}
	if err := checkStatus(good); err != nil {
		t.Error(err)
	}
	for name := range confined {
		for _, bad := range []string{strings.Replace(good, name+":", "Other:", 1), strings.Replace(good, name+":\t", name+":\t2", 1)} {
			if err := checkStatus(bad); !errors.Is(err, errNotConfined) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if err := checkConfined(); !errors.Is(err, errNotConfined) {
		t.Errorf("a test is not confined: %v", err)
	}
}

func TestOutcome(t *testing.T) {
	err := errors.New("x")
	for _, c := range []struct {
		err       error
		cancelled bool
		want      workerctl.Outcome
	}{
		{nil, false, workerctl.Succeeded}, {nil, true, workerctl.Succeeded}, {err, false, workerctl.Stopped},
		{err, true, workerctl.Interrupted}, {fmt.Errorf("y: %w", Final(err)), false, workerctl.Failed}, {ErrNoStore, false, workerctl.Stopped},
	} {
		if got := outcome(c.err, c.cancelled); got != c.want {
			t.Errorf("%v, %v: %s, want %s", c.err, c.cancelled, got, c.want)
		}
	}
	if !errors.Is(Final(err), err) || Final(err).Error() != "x" {
		t.Error("Final hides its error")
	}
}

// TestPacedDevice: the device cannot be changed, and knows its holes as before.
func TestPacedDevice(t *testing.T) {
	p := &paced{device.NewMem(1 << 20), t.Context(), NewPacer(0)}
	b := make([]byte, device.SectorBytes)
	if _, err := p.ReadAt(b, 0); err != nil {
		t.Error(err)
	}
	if n := p.pacer.Pace().Bytes; n != device.SectorBytes {
		t.Errorf("%d bytes read", n)
	}
	_, werr := p.WriteAt(b, 0)
	for _, err := range []error{werr, p.Sync(), p.Discard(0, device.SectorBytes)} {
		if !errors.Is(err, errReadOnly) {
			t.Errorf("%v", err)
		}
	}
	var d device.Device = p
	if _, _, err := d.(device.Allocated).NextData(0); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}
