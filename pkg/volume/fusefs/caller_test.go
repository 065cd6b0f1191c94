package fusefs

import (
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func TestParseStatus(t *testing.T) {
	many := "Groups:\t" + strings.Repeat("4294967294 ", 65536) + "\n"
	for _, c := range []struct {
		name, status string
		want         caller
	}{
		{"root", "Name:\tx\nUid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n", caller{known: true, caps: 1<<41 - 1}},
		{"setfsuid", "Uid:\t0\t0\t0\t1000\nCapEff:\t0000000000000001\n", caller{known: true, fsuid: 1000, caps: 1}},
		{"many groups", "Uid:\t7\t7\t7\t7\n" + many + "CapEff:\t0000000000200000\n", caller{known: true, fsuid: 7, caps: 1 << unix.CAP_SYS_ADMIN}},
		{"a name that lies", "Name:\tCapEff:\\nUid:\nUid:\t7\t7\t7\t7\nCapEff:\t0\n", caller{known: true, fsuid: 7}},
		{"empty", "", caller{}},
		{"cut", "Uid:\t1\t1\t1", caller{}},
		{"no numbers", "Uid:\ta\tb\tc\td\nCapEff:\tzz\n", caller{}},
	} {
		if got := parseStatus([]byte(c.status)); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestCaller(t *testing.T) {
	header := func(pid int) *fuse.InHeader { return &fuse.InHeader{Caller: fuse.Caller{Pid: uint32(pid)}} }
	if c := callerOf(header(unix.Gettid())); !c.known || c.fsuid != uint32(unix.Geteuid()) {
		t.Errorf("this thread: %+v", c)
	}
	for _, pid := range []int{0, 1 << 30} { // not in our PID namespace; no process has these numbers
		c := callerOf(header(pid))
		if c != (caller{}) || c.owns(0) || c.has(unix.CAP_SYS_ADMIN) {
			t.Errorf("process %d: %+v may do something", pid, c)
		}
	}
}
