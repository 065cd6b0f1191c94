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
	// The user namespace that a kernel starts with: USER_NS_INIT_INO, include/uapi/linux/nsfs.h.
	initialUserNS = "user:[4026531837]"

	// Room for /proc/PID/status. The list of groups comes before the capabilities, and
	// has at most 65536 (NGROUPS_MAX) of up to ten digits.
	maxStatusBytes = 1 << 20
)

// caller is what a thread that waits for an answer may do. The kernel checks the permissions
// that FUSE knows of; the few that it does not, we check, by what /proc says of the thread that the request
// names: since Linux 6.12, requests to servers that allow idmapped mounts carry no ids, and none ever carried
// capabilities. The zero value is a stranger, who may do nothing: one whom we
// do not see, because he is outside of our PID namespace, or whose status can not be read.
//
// The thread stays while we look: once a request has been read, its thread waits for
// the answer, even if it is killed. /proc/PID/status takes no lock that a thread in a page fault of this mount
// holds, so reading it never waits for us.
type caller struct {
	known bool
	fsuid uint32 // as of our user namespace
	caps  uint64 // effective ones, if they are of the initial user namespace; else none
}

// has tells whether capable(capability) would say yes: to capabilities of the initial
// user namespace alone.
func (c *caller) has(capability uint) bool { return c.caps>>capability&1 == 1 }

// owns tells whether inode_owner_or_capable would say yes for an inode of that user.
func (c *caller) owns(uid uint32) bool {
	return c.known && c.fsuid == uid || c.has(unix.CAP_FOWNER)
}

// callerOf looks up who waits for the answer to a request.
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
	// Capabilities in a user namespace of one's own are nothing outside of it. Whose namespace may not
	// be asked for (by ptrace's rules) is taken for a stranger's.
	if c.caps != 0 {
		if ns, err := os.Readlink(dir + "/ns/user"); err != nil || ns != initialUserNS {
			c.caps = 0
		}
	}
	return c
}

// parseStatus reads the two lines of /proc/PID/status that matter, see proc_pid_status(5).
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
