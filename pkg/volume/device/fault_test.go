package device_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
)

// TestFaultStops checks the arguments of the hook, and that a failed call does not reach the
// device.
func TestFaultStops(t *testing.T) {
	type call struct {
		n      int
		op     device.Op
		off    int64
		length int
	}
	boom := errors.New("boom")
	var seen []call
	mem := device.NewMem(8 * sector)
	f := device.NewFault(mem, func(n int, op device.Op, off int64, length int) error {
		seen = append(seen, call{n, op, off, length})
		return boom
	})
	b := bytes.Repeat([]byte{1}, 2*sector)
	_, err1 := f.WriteAt(b, sector)
	_, err2 := f.ReadAt(b, 0)
	for i, err := range []error{err1, err2, f.Sync(), f.Discard(0, sector)} {
		if !errors.Is(err, boom) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	want := []call{{0, device.OpWrite, sector, 2 * sector}, {1, device.OpRead, 0, 2 * sector}, {2, device.OpSync, 0, 0}, {3, device.OpDiscard, 0, sector}}
	if len(seen) != len(want) {
		t.Fatalf("the hook saw %v", seen)
	}
	for i := range want {
		if seen[i] != want[i] {
			t.Errorf("call %d: the hook was told %v; want %v", i, seen[i], want[i])
		}
	}
	if mem.Writes() != 0 || mem.UsedBytes() != 0 {
		t.Error("a call that failed reached the device")
	}
	if f.Calls() != 4 {
		t.Errorf("%d calls counted; want 4", f.Calls())
	}
	f.SetHook(nil)
	if _, err := f.WriteAt(b, 0); err != nil || f.Calls() != 1 {
		t.Errorf("without a hook: %v, %d calls", err, f.Calls())
	}
}
