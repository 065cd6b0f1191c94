package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
)

// proc reads a file of a process.
func proc(t *testing.T, pid int, file string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestSnapshotWorkerConfined looks at a running worker from outside.
func TestSnapshotWorkerConfined(t *testing.T) {
	r := newSnapRig(t)
	r.use()
	r.mustBegin(workerctl.Start{ID: newSnapshot()}, long)
	st := r.untilRunning()
	status := proc(t, st.PID, "status")
	for _, line := range []string{"NoNewPrivs:\t1", "CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
		"CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "Uid:\t65534\t65534\t65534\t65534", "Gid:\t65534\t65534\t65534\t65534", "Groups:\t \n",
		"NSpid:\t" + fmt.Sprint(st.PID) + "\t1"} {
		if !strings.Contains(status, line) {
			t.Errorf("no %q in\n%s", line, status)
		}
	}
	if env := proc(t, st.PID, "environ"); env != "" {
		t.Errorf("environment %q", env)
	}
	if limits := proc(t, st.PID, "limits"); !strings.Contains(limits, "Max core file size        0                    0") {
		t.Errorf("core dumps: %s", limits)
	}
	if !st.Limits.Cgroup && !strings.Contains(proc(t, st.PID, "limits"), "Max data size             ") || st.Limits.Missing == "" {
		t.Errorf("limits: %+v", st.Limits)
	}
	if adj := proc(t, st.PID, "oom_score_adj"); adj != "500\n" {
		t.Errorf("oom_score_adj %q", adj)
	}
	if prio, err := unix.Getpriority(unix.PRIO_PROCESS, st.PID); err != nil || 20-prio != 10 {
		t.Errorf("nice %d, %v", 20-prio, err)
	}
	for _, ns := range []string{"net", "ipc", "uts", "pid"} {
		own, err1 := os.Readlink("/proc/self/ns/" + ns)
		theirs, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", st.PID, ns))
		if err1 != nil || err2 != nil || own == theirs {
			t.Errorf("%s namespace: %s, %s, %v, %v", ns, own, theirs, err1, err2)
		}
	}
	// Its network as it sees it: two lines of headings, and a loopback that has sent nothing.
	dev := strings.Split(strings.TrimSpace(proc(t, st.PID, "net/dev")), "\n")
	if len(dev) != 3 || !strings.HasPrefix(strings.TrimSpace(dev[2]), "lo:") {
		t.Errorf("interfaces: %q", dev)
	}
	for _, f := range []string{"net/if_inet6", "net/tcp", "net/udp"} {
		if s := proc(t, st.PID, f); strings.Contains(s, "127.0.0.1") || strings.Contains(s, "lo\n") {
			t.Errorf("%s: %q", f, s) // the loopback is up
		}
	}
	wantFiles(t, r, st.PID)
}

// wantFiles checks what a worker has open. A connection that has just been used may still be open.
func wantFiles(t *testing.T, r *snapRig, pid int) {
	t.Helper()
	// Standard input; the log, twice; mount server, control socket, the mounter that waits for the
	// result, store; the runtime's poller.
	want := map[string]int{"null": 1, "device": 1, "pipe": 2, "socket": 4, "anon_inode": 2}
	ctx := r.ctx()
	for {
		got := openFiles(t, r, pid)
		if maps.Equal(got, want) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("descriptors: %v, want %v", got, want)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// openFiles counts what a worker has open, by kind.
func openFiles(t *testing.T, r *snapRig, pid int) map[string]int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, e := range entries {
		name, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, e.Name()))
		if err != nil || strings.HasPrefix(name, "/sys/fs/cgroup/") { // by which the Go runtime learns how many CPUs it may use
			continue
		}
		kind, _, _ := strings.Cut(name, ":")
		switch name {
		case r.path("image"):
			kind = "device"
			info := proc(t, pid, "fdinfo/"+e.Name())
			_, flags, _ := strings.Cut(info, "flags:\t")
			flags, _, _ = strings.Cut(flags, "\n")
			if n, err := strconv.ParseUint(flags, 8, 32); err != nil || n&unix.O_ACCMODE != unix.O_RDONLY || strings.Contains(info, "lock:") {
				t.Errorf("the device is open for writing, or locked: %s", info)
			}
		case "/dev/null":
			kind = "null"
		}
		count[kind]++
	}
	return count
}

// TestSnapshotWorkerEscape: what a job that turns against its host can reach.
func TestSnapshotWorkerEscape(t *testing.T) {
	r := newSnapRig(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	abstract, err := net.Listen("unix", "@sealvol-test-"+newSnapshot())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = abstract.Close() }()
	open := t.TempDir() // a directory that everybody may write to
	for d, mode := open, os.FileMode(0o777); d != "/" && d != os.TempDir(); d, mode = filepath.Dir(d), 0o755 {
		if err := os.Chmod(d, mode); err != nil {
			t.Fatal(err)
		}
	}
	end := "escape " + strings.Join([]string{l.Addr().String(), abstract.Addr().String(), r.path("mounter/mounter.sock"), fmt.Sprint(os.Getpid()), open}, " ")
	r.mustBegin(workerctl.Start{ID: newSnapshot()}, jobParams{Blocks: 1, End: end})
	if st := r.untilEnd(workerctl.Stopped); st.Message != "reached: " {
		t.Errorf("%+v", st)
	}
	r.use()
}

// TestSnapshotKeysAreNowhere looks for keys where they must not be, while a worker runs and after
// it: in arguments, environments, logs, records, and in everything that passes the store's socket.
func TestSnapshotKeysAreNowhere(t *testing.T) {
	r := newSnapRig(t)
	r.use()
	id := newSnapshot()
	var seen traffic
	end := r.serve(id)
	mine, theirs := socketPair(t)
	seen.forward(t, end.Worker, mine)
	if err := r.beginOn(workerctl.Start{ID: id}, jobParams{Blocks: 200, Pause: 1}, theirs); err != nil {
		t.Fatal(err)
	}
	st := r.untilRunning()
	server, err := r.server().Status(r.ctx())
	if err != nil {
		t.Fatal(err)
	}
	keys := [][]byte{r.tenant, r.key}
	find := func(where string, b []byte) {
		t.Helper()
		for i, k := range keys {
			for _, form := range [][]byte{k, fmt.Appendf(nil, "%x", k), fmt.Appendf(nil, "%X", k), fmt.Append(nil, k)} {
				if bytes.Contains(b, form) {
					t.Errorf("key %d in %s", i, where)
				}
			}
		}
	}
	for _, pid := range []int{st.PID, server.PID, r.cmds["mounter"].Process.Pid} {
		for _, f := range []string{"cmdline", "environ"} {
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, f)); err == nil {
				find(fmt.Sprintf("%s of %d", f, pid), b)
			}
		}
	}
	r.untilEnd(workerctl.Succeeded)
	keys = append(keys, r.dataKeys(t)...)
	if len(keys) != 3 {
		t.Fatalf("%d keys", len(keys))
	}
	find("the store's traffic", seen.bytes())
	if n := len(seen.bytes()); n < 200*jobBlock {
		t.Errorf("%d bytes of traffic", n)
	}
	err = filepath.Walk(r.dir, func(p string, fi os.FileInfo, err error) error {
		if err == nil && fi.Mode().IsRegular() && fi.Size() < 1<<20 {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			find(p, b)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// traffic is what passes a socket, in both directions.
type traffic struct {
	mu  sync.Mutex
	all []byte
}

// Write implements io.Writer.
func (w *traffic) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, b...)
	return len(b), nil
}

func (w *traffic) bytes() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Clone(w.all)
}

// forward joins two sockets, until one of them ends.
func (w *traffic) forward(t *testing.T, a, b *os.File) {
	t.Helper()
	ca, err := net.FileConn(a)
	if err != nil {
		t.Fatal(err)
	}
	cb, err := net.FileConn(b)
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	b.Close()
	for _, d := range [][2]net.Conn{{ca, cb}, {cb, ca}} {
		go func() {
			_, _ = io.Copy(d[0], io.TeeReader(d[1], w))
			d[0].Close()
		}()
	}
}

func socketPair(t *testing.T) (a, b *os.File) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(p[0]), "a"), os.NewFile(uintptr(p[1]), "b")
}
