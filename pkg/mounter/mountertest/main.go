package mountertest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter"
)

// EnvRole selects a role for a test binary: "mount" is a mount server; the roles argument of Main
// has others.
const EnvRole = "SEALVOL_TEST_ROLE"

// EnvKill is the number of the step at which a role's process kills itself.
const EnvKill = "SEALVOL_TEST_KILL"

// EnvSynced names a file that a server creates when it is asked to sync.
const EnvSynced = "SEALVOL_TEST_SYNCED"

// Command starts this test binary in a role.
func Command(role string) []string {
	return []string{"/usr/bin/env", EnvRole + "=" + role, exe()}
}

// argRole begins the argument by which BareCommand selects a role.
const argRole = "role:"

// BareCommand starts this test binary in a role without an environment, and without looking up its
// path, as the default commands of a mounter do.
func BareCommand(role string) []string { return []string{"/proc/self/exe", argRole + role} }

func exe() string {
	p, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return p
}

// Main runs the role that the environment names, or returns. The roles "mount" and "loop" always
// exist.
func Main(roles map[string]func(context.Context) error) {
	role := os.Getenv(EnvRole)
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], argRole) {
		role = strings.TrimPrefix(os.Args[1], argRole)
		os.Args = append(os.Args[:1:1], os.Args[2:]...)
	}
	if role == "" {
		return
	}
	run := roles[role]
	if role == "mount" {
		run = func(ctx context.Context) error { return mounter.RunServer(ctx, Serve) }
	}
	if role == "loop" {
		run = func(context.Context) error { return mounter.RunLoop(os.Stdin, os.Stdout) }
	}
	if run == nil {
		fmt.Fprintln(os.Stderr, "unknown role", role)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "role %s: %v\n", role, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// KillHook returns a hook that kills the process with SIGKILL at the step that EnvKill names. It
// counts steps from the start.
func KillHook() func(string) {
	n, err := strconv.Atoi(os.Getenv(EnvKill))
	if err != nil {
		return func(string) {}
	}
	var mu sync.Mutex
	return func(step string) {
		mu.Lock()
		defer mu.Unlock()
		if n--; n == 0 {
			fmt.Fprintf(os.Stderr, "killed before %q\n", step)
			if err := unix.Kill(os.Getpid(), unix.SIGKILL); err != nil {
				panic(err)
			}
			select {}
		}
	}
}

// Halt stops a process with SIGSTOP and waits until each of its threads has stopped, because a
// thread may run until it notices the signal.
func Halt(t testing.TB, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatalf("stop %d: %v", pid, err)
	}
	for stopped := false; !stopped; {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil || len(threads) == 0 {
			t.Fatal(pid, err)
		}
		stopped = true
		for _, f := range threads {
			b, _ := os.ReadFile(f) // a thread that has ended does not run
			if i := bytes.LastIndexByte(b, ')'); i >= 0 && !bytes.HasPrefix(b[i:], []byte(") T")) {
				stopped = false
			}
		}
	}
}

const fusectl = "/sys/fs/fuse/connections"

// Guard aborts all FUSE connections mounted below dir when the deadline has passed, so that a
// hanging server fails the test and does not hang the machine. At the end of the test, everything
// that is still mounted below dir, and each loop device that is still bound there, is an error and
// is removed.
func Guard(t testing.TB, dir string, deadline time.Duration) {
	t.Helper()
	if m, err := mountinfo.Mounted(fusectl); err != nil {
		t.Fatal(err)
	} else if !m {
		if err := unix.Mount("fusectl", fusectl, "fusectl", 0, ""); err != nil && err != unix.EBUSY {
			t.Fatalf("mount %s: %v", fusectl, err)
		}
	}
	timer := time.AfterFunc(deadline, func() {
		for _, i := range Below(dir) {
			if strings.HasPrefix(i.FSType, "fuse.") {
				// Not t.Error: the test may just be ending, and its cleanup reports the deadline.
				if err := os.WriteFile(fmt.Sprintf("%s/%d/abort", fusectl, i.Minor), []byte("1"), 0); err != nil {
					fmt.Fprintln(os.Stderr, "abort a connection:", err)
				}
			}
		}
	})
	t.Cleanup(func() {
		if !timer.Stop() {
			t.Errorf("deadline of %v passed, connections were aborted", deadline)
		}
		dropLoops(t, dir)
		left := Below(dir)
		for i := len(left) - 1; i >= 0; i-- {
			t.Errorf("left mounted: %s", left[i].Mountpoint)
			if err := unix.Unmount(left[i].Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				t.Error(err)
			}
		}
	})
}

// dropLoops unbinds loop devices on files below dir, and those in the records of a mounter there.
// There must be none.
func dropLoops(t testing.TB, dir string) {
	t.Helper()
	known := map[string]bool{}
	records, _ := filepath.Glob(dir + "/*/volumes/*/state.json")
	for _, f := range records {
		var r struct {
			Loops []struct{ Minor int } `json:"loops"`
		}
		if b, err := os.ReadFile(f); err == nil && json.Unmarshal(b, &r) == nil {
			for _, l := range r.Loops {
				known[fmt.Sprint("loop", l.Minor)] = true
			}
		}
	}
	for name, path := range Loops() {
		if !strings.HasPrefix(path, dir+"/") && !(known[name] && filepath.Dir(path) == "/") {
			continue
		}
		t.Errorf("left bound: %s to %s", name, path)
		f, err := os.Open("/dev/" + name)
		if err == nil {
			err = unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
			f.Close()
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// Loops lists the loop devices of the machine that are in use, by name, with the paths that they
// are bound to.
func Loops() map[string]string {
	bound := map[string]string{}
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil {
			bound[strings.Split(f, "/")[3]] = strings.TrimSuffix(string(b), "\n")
		}
	}
	return bound
}

// Below lists what is mounted at and below a directory.
func Below(dir string) []*mountinfo.Info {
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		panic(err)
	}
	return infos
}
