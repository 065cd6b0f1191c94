package volume

import (
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// A volume is not full while operations that are still running may give back what they were
// granted, however many commits end meanwhile.
func TestGrantedIsNotFull(t *testing.T) {
	dev := device.NewMem(96 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	ino := writeFile(t, v, "f", make([]byte, 1<<20))
	ok(t, v.Sync(ino))

	a := &v.adm
	free := int(v.StatFS().BlocksAvail)
	slow := reservation{pages: free - 1}
	a.mu.Lock()
	a.grant(slow)
	a.mu.Unlock()
	written := make(chan error, 1)
	go func() {
		_, err := v.Write(crashReq, ino, 0, make([]byte, 128<<10), false)
		written <- err
	}()
	for range 10 * fullCommits {
		ok(t, v.Sync(vfs.RootIno))
	}
	select {
	case err := <-written:
		t.Errorf("a write beside an operation that had all room: %v", err)
		a.done(slow)
	default:
		a.done(slow)
		ok(t, <-written)
	}
	ok(t, v.Close())
	checkClean(t, dev)
}
