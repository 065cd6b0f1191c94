package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

const ebsOther = "i-0123456789abcdef1"

// twoNodes are two nodes, each with a driver and mount servers of its own, and a volume that the
// first node has mounted.
type twoNodes struct {
	t    *testing.T
	s    standIn
	a, b *ebsVolume // the same volume from the view of the two nodes
}

func newTwoNodes(t *testing.T) *twoNodes {
	t.Helper()
	t.Setenv(envEngine, "1")
	ra, rb := newRig(t), newRig(t)
	ra.apart = true
	guardApart(t, ra)
	s := newEC2(t, ra.path("ec2"))
	for _, r := range []*rig{ra, rb} {
		r.backend = s.args
		r.start("all", 0)
		r.connect("all", "all")
	}
	a := &ebsVolume{ctrl: ra.ctrl, node: ra.node, r: ra, name: "pvc"}
	all(t, a.create, func() error { return a.attach(ebsNode) }, a.stage, a.mount)
	b := *a
	b.ctrl, b.node, b.r = rb.ctrl, rb.node, rb
	return &twoNodes{t, s, a, &b}
}

// mountsApart returns the FUSE mounts of a node in another mount namespace.
func mountsApart(r *rig) ([]*mountinfo.Info, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", r.cmds["all"].Process.Pid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return mountinfo.GetMountsFromReader(f, func(i *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(i.Mountpoint, r.dir+"/") || !strings.HasPrefix(i.FSType, "fuse."), false
	})
}

// guardApart is mountertest.Guard for such a node: its connections are aborted at the deadline, and
// none may be left at the end.
func guardApart(t *testing.T, r *rig) {
	t.Helper()
	timer := time.AfterFunc(60*time.Second, func() {
		mounts, err := mountsApart(r)
		for _, i := range mounts {
			err = errors.Join(err, os.WriteFile(fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", i.Minor), []byte("1"), 0))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "abort connections:", err)
		}
	})
	t.Cleanup(func() {
		if !timer.Stop() {
			t.Error("deadline passed, connections were aborted")
		}
		if mounts, err := mountsApart(r); err != nil || len(mounts) > 0 {
			t.Errorf("%d mounts are left on the first node, %v", len(mounts), err)
		}
	})
}

// seen returns the path at which the test finds a node's mount.
func (n *twoNodes) seen(v *ebsVolume, file string) string {
	p := filepath.Join(v.target(), file)
	if v.r.apart {
		p = fmt.Sprintf("/proc/%d/root%s", v.r.cmds["all"].Process.Pid, p)
	}
	return p
}

// comesUp attaches and mounts the volume on the second node.
func (n *twoNodes) comesUp() {
	n.t.Helper()
	all(n.t, func() error { return n.b.attach(ebsOther) }, n.b.stage, n.b.mount)
}

// cleansUp does what the kubelet of the first node does after its device is gone. The error of the
// mount server's end is returned once; the retry finds nothing more to do.
func (n *twoNodes) cleansUp() {
	n.t.Helper()
	all(n.t, n.a.unmount)
	if err := n.a.unstage(); status.Code(err) != codes.Internal {
		n.t.Fatalf("unstage what has failed: %v", err)
	}
	all(n.t, n.a.unstage)
}

// ends unmounts and detaches the volume from the second node and deletes it. On the first node,
// nothing may be left except what is still mounted there.
func (n *twoNodes) ends() {
	n.t.Helper()
	all(n.t, n.b.unmount, n.b.unstage, func() error { return n.b.detach(ebsOther) }, n.b.remove)
	for _, x := range n.s.Volumes() {
		if x.State != "deleting" {
			n.t.Errorf("left: %+v", x)
		}
	}
}

// quickly limits a volume's calls to a short time; it returns the function that restores the limit.
func quickly(v *ebsVolume) (restore func()) {
	v.r.patience = time.Second
	return func() { v.r.patience = 0 }
}

const recordBytes = 4096

func record(i int) []byte {
	b := bytes.Repeat([]byte{byte(i)}, recordBytes)
	binary.LittleEndian.PutUint64(b, uint64(i))
	return b
}

// journal writes like a database: it appends records and waits for each to be durable, until it is
// stopped or fails.
type journal struct {
	path  string
	acked atomic.Int64
	stop  chan struct{}
	done  chan struct{} // closed when err is set
	err   error
}

func startJournal(path string) *journal {
	j := &journal{path: path, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(j.done)
		j.err = j.run()
	}()
	return j
}

func (j *journal) run() (err error) {
	f, err := os.Create(j.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for i := 0; ; i++ {
		select {
		case <-j.stop:
			return nil
		default:
		}
		if _, err := f.Write(record(i)); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		j.acked.Add(1)
	}
}

// grows waits for more records.
func (j *journal) grows(t *testing.T) {
	t.Helper()
	for want := j.acked.Load() + 20; j.acked.Load() < want; {
		select {
		case <-j.done:
			t.Fatalf("the writer ended after %d records: %v", j.acked.Load(), j.err)
		case <-time.After(time.Millisecond):
		}
	}
}

// check expects all acknowledged records, and at most one that was being written.
func (j *journal) check(t *testing.T, path string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := int(j.acked.Load())
	if len(got) < n*recordBytes || len(got) > (n+1)*recordBytes {
		t.Fatalf("%d bytes, and %d records of %d were acknowledged", len(got), n, recordBytes)
	}
	for i := range n {
		if !bytes.Equal(got[i*recordBytes:(i+1)*recordBytes], record(i)) {
			t.Fatalf("record %d is not what was written", i)
		}
	}
}

// TestEBSSixMinutes: after six minutes, Kubernetes gives up on a node and detaches what the node
// still uses. EC2 does not detach while the machine uses the volume, the driver never forces it,
// and no other node gets the volume. When the node releases it, nothing is lost.
func TestEBSSixMinutes(t *testing.T) {
	n := newTwoNodes(t)
	j := startJournal(n.seen(n.a, "journal"))
	j.grows(t)
	n.s.StickDetach(true)
	quick := []func(){quickly(n.a), quickly(n.b)}
	for range 2 {
		if err := n.a.detach(ebsNode); status.Code(err) != codes.DeadlineExceeded && status.Code(err) != codes.Aborted {
			t.Fatalf("a machine that holds on: %v", err)
		}
		// On a slow machine, the time was over before EC2 was asked to detach. Then the first node
		// still has the volume.
		if err := n.b.attach(ebsOther); !slices.Contains([]codes.Code{codes.DeadlineExceeded, codes.Aborted, codes.FailedPrecondition}, status.Code(err)) {
			t.Fatalf("while it is on its way off another node: %v", err)
		}
	}
	for _, restore := range quick {
		restore()
	}
	if on := n.s.Volumes()[0].Instances; !slices.Equal(on, []string{ebsNode}) {
		t.Fatalf("attached to %v", on)
	}
	j.grows(t) // the node itself works
	close(j.stop)
	<-j.done
	if j.err != nil {
		t.Fatal(j.err)
	}
	all(t, n.a.unmount, n.a.unstage)
	n.s.StickDetach(false)
	all(t, func() error { return n.a.detach(ebsNode) })
	n.comesUp()
	j.check(t, n.seen(n.b, "journal"))
	n.ends()
	if strange := n.s.Strange(); len(strange) > 0 {
		t.Error(strange)
	}
}

// TestEBSNodeLost: a node is lost while its mount server writes, and the volume moves to another
// node. Whatever the first node still tries, the other one finds everything that was acknowledged
// and nothing that came too late.
func TestEBSNodeLost(t *testing.T) {
	for name, lose := range map[string]func(n *twoNodes){
		"terminated": func(n *twoNodes) { n.s.Terminate(ebsNode) }, // the Node object is deleted, and with it the attachment
		"out of service": func(n *twoNodes) { // the machine hung, was stopped and got the taint: Kubernetes detaches at once
			n.s.StickDetach(true)
			n.s.Stop(ebsNode)
		},
		"by force": func(n *twoNodes) { n.s.Update(n.a.id, "detach") }, // by a user of the console, never by the driver
	} {
		t.Run(name, func(t *testing.T) {
			n := newTwoNodes(t)
			j := startJournal(n.seen(n.a, "journal"))
			j.grows(t)
			lose(n)
			for range 2 { // Kubernetes retries, and has unstaged nothing
				all(t, func() error { return n.b.detach(ebsNode) })
			}
			n.comesUp()
			<-j.done // the mount server of the first still runs
			if j.err == nil {
				t.Fatal("a write after the node was lost did not fail")
			}
			acked := j.acked.Load()
			j.check(t, n.seen(n.b, "journal"))
			second := startJournal(n.seen(n.b, "second"))
			second.grows(t)
			late := []byte("too late")
			if err := writeDurably(n.seen(n.a, "late"), late); err == nil {
				t.Fatal("the first node still writes")
			}
			second.grows(t)
			close(second.stop)
			<-second.done
			if second.err != nil {
				t.Fatal(second.err)
			}
			all(t, n.b.unmount, n.b.unstage, n.b.stage, n.b.mount)
			j.check(t, n.seen(n.b, "journal"))
			second.check(t, n.seen(n.b, "second"))
			if _, err := os.Stat(n.seen(n.b, "late")); !errors.Is(err, os.ErrNotExist) || j.acked.Load() != acked {
				t.Fatalf("what came too late is there: %v", err)
			}
			// The first node comes back: its kubelet cleans up.
			n.cleansUp()
			if err := n.a.attach(ebsNode); status.Code(err) != codes.FailedPrecondition {
				t.Fatalf("the first node again: %v", err)
			}
			n.s.StickDetach(false)
			n.ends()
			if strange := n.s.Strange(); len(strange) > 0 {
				t.Error(strange)
			}
		})
	}
}

// TestEBSVolumeGone: a user detaches a mounted volume in the console and deletes it. The pod's
// writes fail and nothing hangs. Calls that need the volume return NOT_FOUND, and calls that clean
// up succeed.
func TestEBSVolumeGone(t *testing.T) {
	n := newTwoNodes(t)
	j := startJournal(n.seen(n.a, "journal"))
	j.grows(t)
	n.s.Update(n.a.id, "detach")
	<-j.done
	if j.err == nil {
		t.Fatal("a write to nothing did not fail")
	}
	n.s.Update(n.a.id, "delete")
	get := func() error {
		_, err := n.b.ctrl.ControllerGetVolume(n.b.r.ctx(), &csi.ControllerGetVolumeRequest{VolumeId: n.b.id})
		return err
	}
	for give := time.Now().Add(30 * time.Second); status.Code(get()) != codes.NotFound; { // describes are outdated
		if time.Now().After(give) {
			t.Fatalf("it is gone, and still shown: %v", get())
		}
	}
	for what, call := range map[string]func() error{
		"publish": func() error { return n.b.attach(ebsOther) },
		"expand":  func() error { return n.b.expand(2 * gib) },
		"modify":  func() error { return n.b.modify("200") },
		"get":     get,
		"snapshot": func() error {
			_, err := n.b.ctrl.CreateSnapshot(n.b.r.ctx(), &csi.CreateSnapshotRequest{Name: "snap", SourceVolumeId: n.b.id})
			return err
		},
	} {
		if err := call(); status.Code(err) != codes.NotFound {
			t.Fatalf("%s: %v", what, err)
		}
	}
	n.cleansUp()
	all(t, func() error { return n.a.detach(ebsNode) }, func() error { return n.a.detach("") }, n.a.remove, n.a.remove)
}

// eventually tells whether the call may succeed when it is repeated.
func eventually(err error) bool {
	c := status.Code(err)
	return c == codes.Unavailable || c == codes.Aborted || c == codes.FailedPrecondition
}

// TestEBSMoves: a pod moves quickly between nodes, and the next node asks before the previous one
// has released the volume. The call is refused with the name of that node until then. Each node
// finds what the other wrote.
func TestEBSMoves(t *testing.T) {
	n := newTwoNodes(t)
	here, there := n.a, n.b
	nodes := map[*ebsVolume]string{n.a: ebsNode, n.b: ebsOther}
	for round := range 4 {
		if err := there.attach(nodes[there]); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), nodes[here]) {
			t.Fatalf("Multi-Attach: %v", err)
		}
		all(t, func() error { return here.attach(nodes[here]) }) // again: nothing changes
		if err := writeDurably(n.seen(here, fmt.Sprint("file", round)), record(round)); err != nil {
			t.Fatal(err)
		}
		attached := make(chan error)
		go func() { // another controller, which does not know about the detach
			for {
				err := there.attach(nodes[there])
				if err == nil || !eventually(err) {
					attached <- err
					return
				}
			}
		}()
		all(t, here.unmount, here.unstage, func() error { return here.detach(nodes[here]) })
		if err := <-attached; err != nil {
			t.Fatal(err)
		}
		if err := here.detach(nodes[here]); err != nil { // late
			t.Fatal(err)
		}
		if on := n.s.Volumes()[0].Instances; !slices.Equal(on, []string{nodes[there]}) {
			t.Fatalf("attached to %v", on)
		}
		all(t, there.stage, there.mount)
		for i := range round + 1 {
			if err := sameFile(n.seen(there, fmt.Sprint("file", i)), record(i)); err != nil {
				t.Fatal(err)
			}
		}
		here, there = there, here
	}
	all(t, here.unmount, here.unstage, func() error { return here.detach(nodes[here]) }, here.remove)
}
