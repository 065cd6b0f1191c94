package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mountserver/mounts"
	"github.com/sealvol/sealvol/pkg/volume/fusefs"
)

// scriptDeadline is how long the mounts of one script may live.
const scriptDeadline = 90 * time.Second

func TestMain(m *testing.M) {
	main := func() { os.Exit(run(os.Args)) }
	testscript.Main(m, map[string]func(){"sealvol": main, "kubectl-sealvol": main})
}

// TestScripts runs testdata/script. In addition to testscript's own commands, there are
//
//	exits CODE COMMAND...   runs a command and checks its exit code
//	json PATH VALUE         checks a value in the JSON of the last stdout (a.0.b; "*" is any value, "len" the length)
//	signal NAME DIR         sends a signal to the server of a mount, and waits until it has ended
//	twosignals FILE         holds a file of a mount open while it sends its server two signals
//	mounted DIR             waits until there is a mount
//	cut DIR                 aborts a mount's connection
//	tmpfs DIR SIZE          mounts a tmpfs of limited size
//	loop NAME FILE          attaches FILE to a loop device, and sets $NAME to its path
//	newer FILE              changes a volume to the next format version
//	flip FILE OFFSET        changes a byte
//	flipnew BEFORE AFTER    changes a byte of AFTER, an image, in the middle of the longest range that
//	                        differs from BEFORE: the data of a large file written in between
//	s3 NAME                 starts an S3 server with a bucket named bucket, and sets $NAME to its URL
//	stores VAR URL TENANT-FILE KEY-FILE [NAME=VALUE]...
//	                        puts a snapshot into a store, and sets $VAR to its id
//	uuid NAME               sets $NAME to the uuid in the JSON of the last stdout
func TestScripts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("mounting needs root")
	}
	if err := unix.Mount("fusectl", "/sys/fs/fuse/connections", "fusectl", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		t.Fatalf("mount fusectl: %v", err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			work, err := filepath.EvalSymlinks(e.WorkDir)
			if err != nil {
				return err
			}
			timer := time.AfterFunc(scriptDeadline, func() { abortAll(work) })
			e.Defer(func() {
				timer.Stop()
				abortAll(work)
				unmountAll(t, work)
			})
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "json": wantJSON, "signal": kill, "mounted": mounted, "twosignals": twoSignals, "cut": cut, "tmpfs": tmpfs, "newer": newer, "loop": loop, "flip": flip, "flipnew": flipNew, "restoring": restoring,
			"s3": fakeS3, "uuid": uuid, "stores": stores,
		},
	})
}

func uuid(ts *testscript.TestScript, neg bool, args []string) {
	var v struct {
		UUID string `json:"uuid"`
	}
	if err := json.Unmarshal([]byte(ts.ReadFile("stdout")), &v); err != nil || neg || len(args) != 1 || v.UUID == "" {
		ts.Fatalf("uuid NAME: %v", err)
	}
	ts.Setenv(args[0], v.UUID)
}

func mountsBelow(dir string) []*mountinfo.Info {
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		panic(err) // /proc is always mounted
	}
	return infos
}

// abortAll aborts the connections of a script's mounts, so that its commands cannot hang.
func abortAll(dir string) {
	for _, m := range mountsBelow(dir) {
		if m.FSType == fusefs.FSType {
			if err := fusefs.AbortConnection(uint32(m.Minor)); err != nil && !errors.Is(err, os.ErrNotExist) {
				panic(err)
			}
		}
	}
}

func unmountAll(t *testing.T, dir string) {
	infos := mountsBelow(dir)
	for i := range infos {
		if m := infos[len(infos)-1-i]; m.Mountpoint != dir {
			if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); err != nil {
				t.Errorf("%s: %v", m.Mountpoint, err)
			}
		}
	}
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	code := 0
	var e *exec.ExitError
	if errors.As(err, &e) {
		code = e.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

func wantJSON(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: json PATH VALUE")
	}
	var v any
	d := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	d.UseNumber()
	ts.Check(d.Decode(&v))
	if d.More() {
		ts.Fatalf("more than one JSON value")
	}
	for _, name := range strings.Split(args[0], ".") {
		v = member(ts, v, name)
	}
	if got := fmt.Sprint(v); args[1] != "*" && got != args[1] {
		ts.Fatalf("%s is %s, want %s", args[0], got, args[1])
	}
}

func member(ts *testscript.TestScript, v any, name string) any {
	switch c := v.(type) {
	case map[string]any:
		if m, ok := c[name]; ok {
			return m
		}
	case []any:
		if name == "len" {
			return len(c)
		}
		if i, err := strconv.Atoi(name); err == nil && i < len(c) {
			return c[i]
		}
	}
	ts.Fatalf("no member %q in the JSON", name)
	return nil
}

func kill(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]unix.Signal{"KILL": unix.SIGKILL, "TERM": unix.SIGTERM, "INT": unix.SIGINT}
	if neg || len(args) != 2 || signals[args[0]] == 0 {
		ts.Fatalf("usage: signal KILL|TERM|INT DIR")
	}
	fd := server(ts, ts.MkAbs(args[1]))
	defer unix.Close(fd)
	ts.Check(unix.PidfdSendSignal(fd, signals[args[0]], nil, 0))
	wait(ts, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
}

// server opens a pidfd of the server of a mount.
func server(ts *testscript.TestScript, dir string) (pidfd int) {
	c, err := control.Find(dir)
	ts.Check(err)
	ctx, cancel := shortTime()
	defer cancel()
	s, err := c.Status(ctx)
	ts.Check(err)
	pidfd, err = unix.PidfdOpen(s.PID, 0)
	ts.Check(err)
	return pidfd
}

func twoSignals(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: twosignals FILE")
	}
	dir := filepath.Dir(ts.MkAbs(args[0]))
	pid := server(ts, dir)
	defer unix.Close(pid)
	fd, err := unix.Open(ts.MkAbs(args[0]), unix.O_RDONLY, 0)
	ts.Check(err)
	defer unix.Close(fd)
	mounts := openMounts(ts)
	defer unix.Close(mounts)
	ts.Check(unix.PidfdSendSignal(pid, unix.SIGTERM, nil, 0))
	waitMount(ts, mounts, dir, false)
	if err := unix.Setxattr(fmt.Sprintf("/proc/self/fd/%d", fd), "user.still", []byte("served"), 0); err != nil {
		ts.Fatalf("a detached mount does not serve: %v", err)
	}
	ts.Check(unix.PidfdSendSignal(pid, unix.SIGTERM, nil, 0))
	wait(ts, unix.PollFd{Fd: int32(pid), Events: unix.POLLIN})
}

func wait(ts *testscript.TestScript, p unix.PollFd) {
	for {
		n, err := unix.Poll([]unix.PollFd{p}, int(scriptDeadline.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		ts.Check(err)
		if n == 0 {
			ts.Fatalf("nothing happened in %v", scriptDeadline)
		}
		return
	}
}

// openMounts opens the mount table. Each change of it is one event for poll(2). os.Open cannot be
// used, because the runtime's poller would consume the events.
func openMounts(ts *testscript.TestScript) int {
	fd, err := unix.Open("/proc/self/mounts", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	ts.Check(err)
	return fd
}

// waitMount waits until dir is a mount point, or is none.
func waitMount(ts *testscript.TestScript, table int, dir string, there bool) {
	for {
		m, err := mounts.On(dir)
		ts.Check(err)
		if (m != nil) == there {
			return
		}
		wait(ts, unix.PollFd{Fd: int32(table), Events: unix.POLLPRI})
	}
}

func mounted(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: mounted DIR")
	}
	dir := ts.MkAbs(args[0])
	table := openMounts(ts)
	defer unix.Close(table)
	waitMount(ts, table, dir, true)
	var st unix.Stat_t
	ts.Check(unix.Stat(dir, &st)) // answered when the server is ready
	d, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	ts.Check(err)
	defer unix.Close(d)
	_, err = unix.InotifyAddWatch(d, control.RuntimeDir(), unix.IN_CREATE|unix.IN_ATTRIB)
	ts.Check(err)
	for mounts.Status(dir) != nil { // the server creates its control socket last
		// The timeout is short because listening on the socket, which comes later, causes no event.
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(d), Events: unix.POLLIN}}, 20); err == nil && n > 0 {
			_, err := unix.Read(d, make([]byte, 4096))
			ts.Check(err)
		}
	}
}

func cut(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: cut DIR")
	}
	id, err := fusefs.ConnectionID(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(fusefs.AbortConnection(id))
}

func tmpfs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: tmpfs DIR SIZE")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.Mkdir(dir, 0o700))
	ts.Check(unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+args[1]))
}

func loop(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: loop NAME FILE")
	}
	out, err := exec.Command("losetup", "--find", "--show", ts.MkAbs(args[1])).Output()
	ts.Check(err)
	dev := strings.TrimSpace(string(out))
	ts.Setenv(args[0], dev)
	ts.Defer(func() { // Setup's Defer would run too late; --detach takes effect after the last user has closed the device
		ts.Check(exec.Command("losetup", "--detach", dev).Run())
	})
}

func newer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: newer FILE")
	}
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR, 0)
	ts.Check(err)
	defer f.Close()
	for _, off := range []int64{0, 1 << 20} { // docs/format.md, Header
		b := make([]byte, 64<<10)
		_, err = f.ReadAt(b, off)
		ts.Check(err)
		if !bytes.Equal(b[1:8], []byte("SEALVOL")) {
			ts.Fatalf("no header at %d", off)
		}
		binary.LittleEndian.PutUint32(b[8:], binary.LittleEndian.Uint32(b[8:])+1)
		sum := sha256.Sum256(b[:len(b)-32])
		copy(b[len(b)-32:], sum[:])
		_, err = f.WriteAt(b, off)
		ts.Check(err)
	}
}

func flip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: flip FILE OFFSET")
	}
	off, err := strconv.ParseInt(args[1], 0, 64)
	ts.Check(err)
	flipAt(ts, args[0], off)
}

func flipNew(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: flipnew BEFORE AFTER")
	}
	const block = 4096
	before, after := []byte(ts.ReadFile(args[0])), []byte(ts.ReadFile(args[1]))
	first, longest := 0, 0
	for i, run := 0, 0; i+block <= min(len(before), len(after)); i += block {
		if run += block; bytes.Equal(before[i:i+block], after[i:i+block]) {
			run = 0
		}
		if run > longest {
			first, longest = i+block-run, run
		}
	}
	if longest == 0 {
		ts.Fatalf("%s and %s do not differ", args[0], args[1])
	}
	flipAt(ts, args[1], int64(first+longest/2))
}

func flipAt(ts *testscript.TestScript, name string, off int64) {
	f, err := os.OpenFile(ts.MkAbs(name), os.O_RDWR, 0)
	ts.Check(err)
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, off)
	ts.Check(err)
	b[0] ^= 1
	_, err = f.WriteAt(b, off)
	ts.Check(err)
}
