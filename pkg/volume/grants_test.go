package volume

import (
	"context"
	"errors"
	"testing"
	"time"

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

// grantAll grants all free space to an operation, so that nothing else fits.
func grantAll(v *Volume) reservation {
	a := &v.adm
	free, _, _ := v.space.Counts()
	c := reservation{pages: int(free)}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.grant(c)
	return c
}

// mustRefuse waits until a reservation fails because there is no space.
func mustRefuse(t *testing.T, reserved <-chan error) {
	t.Helper()
	select {
	case err := <-reserved:
		if !errors.Is(err, vfs.ErrNoSpace) {
			t.Fatalf("reserved: %v, want no space", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("a reservation waits for an operation that waits for it")
	}
}

// An operation with a grant may need more space while it holds locks, and then it waits as long as
// deleted snapshots are being freed. So the freeing must not wait for the end of that operation.
func TestFreeingBesideStuckOperation(t *testing.T) {
	dev := device.NewMem(96 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory, idle: true})
	s := &v.snap
	s.mu.Lock()
	s.done, s.dying = make(chan struct{}), []*snapshot{{}} // as if the reaper were running
	s.mu.Unlock()

	outer := grantAll(v)
	operation, freeing := make(chan error, 1), make(chan error, 1)
	go func() { operation <- v.adm.reserve(reservation{pages: 1, promised: true, nested: true}) }()
	go func() { freeing <- v.adm.reserve(reservation{nodes: opNodes, urgent: true, snaps: true}) }()
	mustRefuse(t, freeing)
	s.mu.Lock()
	s.stalled = vfs.ErrNoSpace // as the reaper does then
	s.mu.Unlock()
	mustRefuse(t, operation)
	v.adm.done(outer)
	s.mu.Lock()
	s.stalled, s.done, s.dying = nil, nil, nil
	s.mu.Unlock()
}

// A rollback keeps its grant while it waits for the end of background work, which must not wait for
// the end of the rollback.
func TestRollbackEndsWaitingWork(t *testing.T) {
	dev := device.NewMem(96 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	_, end, err := v.background.begin(context.Background(), "test")
	ok(t, err)
	rollback := grantAll(v)
	work := make(chan error, 1)
	go func() {
		defer end()
		work <- v.adm.reserve(reservation{pages: 1, nodes: opNodes})
	}()
	closed := make(chan error, 1)
	go func() {
		_, err := v.snap.beginClose(true)
		closed <- errors.Join(err, v.close(nil))
	}()
	mustRefuse(t, work)
	ok(t, <-closed)
	v.adm.done(rollback)
	checkClean(t, dev)
}
