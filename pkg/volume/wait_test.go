package volume

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// TestNestedAdmission truncates a file in steps while more operations than the
// limits allow have been admitted and wait for its lock.
func TestNestedAdmission(t *testing.T) {
	watch := time.AfterFunc(time.Minute, func() { panic("truncation waits for those who wait for it") })
	defer watch.Stop()
	v := mustOpen(t, newDev(t, 512<<20), Options{CommitInterval: -1})
	a, err := v.Mknod(crashReq, vfs.RootIno, "f", 0o644, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(3 * cutStep) { // one extent each
		if _, err := v.Write(crashReq, a.Ino, 2*i*bufferBytes, []byte("x"), false); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.Sync(vfs.RootIno); err != nil {
		t.Fatal(err)
	}
	in, err := v.table.inode(a.Ino)
	if err != nil {
		t.Fatal(err)
	}
	in.mu.Lock()
	done := make(chan error)
	go func() {
		size := uint64(0)
		_, err := v.SetAttr(crashReq, a.Ino, &vfs.SetAttr{Size: &size})
		done <- err
	}()
	for granted := 0; granted == 0; {
		v.adm.mu.Lock()
		if granted = v.adm.granted.nodes; granted > 0 { // admitted, and waits for in.mu
			v.adm.granted.nodes += v.adm.maxNodes + opNodes
			v.adm.granted.pages += v.adm.maxPages
		}
		v.adm.mu.Unlock()
	}
	in.mu.Unlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	v.adm.done(reservation{nodes: v.adm.maxNodes + opNodes, pages: v.adm.maxPages})
	v.table.put(in)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestCloseWaiters closes a volume under those who sync it.
func TestCloseWaiters(t *testing.T) {
	watch := time.AfterFunc(time.Minute, func() { panic("a sync waits for a committer that is gone") })
	defer watch.Stop()
	for range 20 {
		v := mustOpen(t, newDev(t, 80<<20), Options{CommitInterval: -1})
		done := make(chan struct{})
		for range 4 {
			go func() {
				for v.Sync(vfs.RootIno) == nil {
				}
				done <- struct{}{}
			}()
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		for range 4 {
			<-done
		}
	}
}

func newDev(t *testing.T, size int64) *device.Mem {
	dev := device.NewMem(size)
	mustFormat(t, dev)
	return dev
}

// Writers that wait for flushers and flushers that look for work take each
// other's locks in one order only.
func TestWritersWaitForFlushers(t *testing.T) {
	dev := device.NewMem(256 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	v.adm.mu.Lock()
	v.adm.maxPages = 2 * bufferPages
	v.adm.mu.Unlock()
	rounds := 3000
	if testing.Short() {
		rounds = 300
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			a, err := v.Mknod(crashReq, vfs.RootIno, fmt.Sprint(w), 0o644, 0)
			if err != nil {
				t.Error(err)
				return
			}
			data := make([]byte, bufferBytes)
			for i := range rounds {
				if _, err := v.Write(crashReq, a.Ino, uint64(i%64)*bufferBytes, data[:bufferBytes-i%2*pageBytes], false); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	checkClean(t, dev)
}
