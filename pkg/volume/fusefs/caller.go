package fusefs

import (
	"bytes"
	"io"
	"os"
	"strconv"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// The inode of the initial user namespace: USER_NS_INIT_INO, include/uapi/linux/nsfs.h.
	initialUserNS = "user:[4026531837]"

	// Buffer size for /proc/PID/status. The list of groups comes before the capabilities. It has at
	// most 65536 groups (NGROUPS_MAX) of up to ten digits.
	maxStatusBytes = 1 << 20
)

// caller contains the user and capabilities of a thread that waits for an answer. The kernel checks
// most permissions. The server checks the few others, and looks up the thread of the request in
// /proc. The request itself is not sufficient: since Linux 6.12, requests to servers that allow
// idmapped mounts contain no ids, and requests never contain capabilities. The zero value is a
// caller without any rights. It is used if the thread is outside of the server's PID namespace, or
// if its status cannot be read.
//
// The thread exists during the lookup: once its request has been read, it waits for the answer,
// even if it is killed. Reading /proc/PID/status takes no lock that a thread in a page fault of
// this mount holds, so it cannot deadlock.
type caller struct {
	known bool
	fsuid uint32 // in the server's user namespace
	caps  uint64 // the effective ones, if the thread is in the initial user namespace; otherwise none
}

// has tells whether the kernel's capable(capability) would be true. Only capabilities in the
// initial user namespace count.
func (c *caller) has(capability uint) bool { return c.caps>>capability&1 == 1 }

// owns tells whether the kernel's inode_owner_or_capable would be true for an inode of that user.
func (c *caller) owns(uid uint32) bool {
	return c.known && c.fsuid == uid || c.has(unix.CAP_FOWNER)
}

// callerOf looks up the thread that waits for the answer to a request.
func callerOf(h *fuse.InHeader) caller {
	if h.Pid == 0 {
		return caller{}
	}
	dir := "/proc/" + strconv.FormatUint(uint64(h.Pid), 10)
	f, err := os.Open(dir + "/status")
	if err != nil {
		return caller{}
	}
	defer f.Close()
	status, err := io.ReadAll(io.LimitReader(f, maxStatusBytes))
	if err != nil {
		return caller{}
	}
	c := parseStatus(status)
	// Capabilities in another user namespace do not count outside of it. If the server may not read
	// the thread's namespace (by the rules of ptrace), the thread counts as one in another
	// namespace.
	if c.caps != 0 {
		if ns, err := os.Readlink(dir + "/ns/user"); err != nil || ns != initialUserNS {
			c.caps = 0
		}
	}
	return c
}

// parseStatus parses the two relevant lines of /proc/PID/status; see proc_pid_status(5).
func parseStatus(status []byte) (c caller) {
	for line := range bytes.Lines(status) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch string(name) {
		case "Uid": // real, effective, saved, file system
			if ids := bytes.Fields(value); len(ids) == 4 {
				uid, err := strconv.ParseUint(string(ids[3]), 10, 32)
				c.fsuid, c.known = uint32(uid), err == nil
			}
		case "CapEff":
			if caps, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 16, 64); err == nil {
				c.caps = caps
			}
		}
	}
	return c
}
