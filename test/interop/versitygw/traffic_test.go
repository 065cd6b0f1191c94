package versitygw

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// enclosed is set in the process that runs in a new network namespace.
const enclosed = "VERSITYGW_TEST_ENCLOSED"

// TestTraffic runs the tests of the stores and of this package in a network namespace that has only
// loopback. The kernel counts all attempts to reach other addresses, such as default endpoints, the
// metadata service and name servers. There must be none.
func TestTraffic(t *testing.T) {
	if program := os.Getenv(enclosed); program != "" {
		enclose(t, program)
		return
	}
	program := filepath.Join(t.TempDir(), "chunkstore.test")
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", program, "github.com/sealvol/sealvol/pkg/selfenc/chunkstore").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), exe, "-test.run", "^TestTraffic$", "-test.v")
	c.Env = append(os.Environ(), enclosed+"="+program)
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := c.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "\nenclosed: nothing went elsewhere\n") {
		t.Fatalf("%v (it needs root): %s", err, out)
	}
}

func enclose(t *testing.T, program string) {
	t.Helper()
	raiseLoopback(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*exec.Cmd{
		exec.CommandContext(t.Context(), program, "-test.run", "S3|URLs|Faults"),
		exec.CommandContext(t.Context(), exe, "-test.run", "^TestConformance$"),
	} {
		if c.Path == program {
			c.Dir = "../../../pkg/selfenc/chunkstore"
		}
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if n := unroutable(t); n != 0 {
		t.Fatalf("%d packets, or connections, wanted to go elsewhere", n)
	}
	// Check that the count works. 192.0.2.1 is a reserved address.
	if c, err := net.DialTimeout("tcp", "192.0.2.1:80", time.Second); err == nil {
		_ = c.Close()
		t.Fatal("the reserved address is reachable")
	}
	if unroutable(t) == 0 {
		t.Fatal("the kernel did not count what wanted to go elsewhere")
	}
	fmt.Println("\nenclosed: nothing went elsewhere")
}

// raiseLoopback activates the only interface of a new namespace.
func raiseLoopback(t *testing.T) {
	t.Helper()
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	r.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r); err != nil {
		t.Fatal(err)
	}
}

// unroutable returns how often there was no route in this namespace.
func unroutable(t *testing.T) (n int) {
	t.Helper()
	for _, file := range []string{"/proc/self/net/snmp", "/proc/self/net/snmp6"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for line := range strings.Lines(string(b)) {
			words := strings.Fields(line)
			switch {
			case words[0] == "Ip6OutNoRoutes":
				n += atoi(t, words[1])
			case words[0] == "Ip:" && names == nil:
				names = words
			case words[0] == "Ip:":
				for i, name := range names {
					if name == "OutNoRoutes" {
						n += atoi(t, words[i])
					}
				}
			}
		}
	}
	return n
}

func atoi(t *testing.T, s string) (n int) {
	t.Helper()
	if _, err := fmt.Sscan(s, &n); err != nil {
		t.Fatal(err)
	}
	return n
}
