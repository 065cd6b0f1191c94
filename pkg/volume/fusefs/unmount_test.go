package fusefs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/fusefs"
	"github.com/sealvol/sealvol/pkg/volume/fusefs/fusefstest"
	"github.com/sealvol/sealvol/pkg/volume/vfs/vfstest"
)

// TestUnmountWaits checks that a mount that is in use only for a moment is unmounted.
func TestUnmountWaits(t *testing.T) {
	m := fusefstest.Mount(t, vfstest.NewMemFS(), fusefstest.Options{})
	fd, err := unix.Open(m.Dir, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	tick := make(chan time.Time, 10)
	for range 10 {
		tick <- time.Time{}
	}
	busy := 0
	err = fusefs.WhileBusy(tick, 10, func() error {
		err := unix.Unmount(m.Dir, 0)
		if errors.Is(err, unix.EBUSY) {
			if busy++; busy == 3 {
				unix.Close(fd)
			}
		}
		return err
	})
	if err != nil || busy != 3 {
		t.Errorf("after %d times busy: %v", busy, err)
	}
	m.Unmounted()
}

func TestWhileBusy(t *testing.T) {
	tick := make(chan time.Time, 100)
	for range cap(tick) {
		tick <- time.Time{}
	}
	byHelper := errors.New("fusermount3: exit status 1: failed to unmount /x: Device or resource busy")
	for _, c := range []struct {
		name string
		errs []error // the results of the calls; the last one repeats
		want error
		left int // ticks of 100, of which 5 may be used
	}{
		{"at once", []error{nil}, nil, 100},
		{"not mounted", []error{unix.EINVAL}, unix.EINVAL, 100},
		{"in use", []error{&fs.PathError{Op: "unmount", Err: unix.EBUSY}}, unix.EBUSY, 95},
		{"just going", []error{unix.EBUSY, byHelper, fmt.Errorf("x: %w", unix.EBUSY), nil}, nil, 92},
		{"gone meanwhile", []error{unix.EBUSY, unix.EINVAL}, unix.EINVAL, 91},
	} {
		call := 0
		err := fusefs.WhileBusy(tick, 5, func() error {
			call++
			return c.errs[min(call, len(c.errs))-1]
		})
		if !errors.Is(err, c.want) || len(tick) != c.left {
			t.Errorf("%s: %v, %d ticks left; want %v, %d", c.name, err, len(tick), c.want, c.left)
		}
	}
}
