package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Server returns the process, as this machine knows it, that serves a volume on a node.
func (c *Cluster) Server(node, volume string) int {
	c.t.Helper()
	inside, err := recordedServer(node, volume)
	if err != nil {
		c.t.Fatal(err)
	}
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		c.t.Fatal(err)
	}
	for _, n := range names {
		// Not ps: that hangs for a process which waits for a file system that does.
		if b, err := os.ReadFile(n); err != nil || string(b) != "exe\n" { // the mounter starts itself again, by /proc/self/exe
			continue
		}
		dir := filepath.Dir(n)
		if isServer(dir, node, inside) {
			pid, err := strconv.Atoi(filepath.Base(dir))
			if err != nil {
				c.t.Fatal(err)
			}
			return pid
		}
	}
	c.t.Fatalf("no process serves volume %s on node %s", volume, node)
	return 0
}

// recordedServer is the process id that the mounter has noted, as its container knows it.
func recordedServer(node, volume string) (int, error) {
	files, err := filepath.Glob(HostPath(node, "mounter/volumes/*/state.json"))
	if err != nil {
		return 0, err
	}
	for _, f := range files {
		var r struct {
			Volume string `json:"volume"`
			PID    int    `json:"pid"`
		}
		b, err := os.ReadFile(f)
		if err != nil {
			continue // unmounted meanwhile
		}
		if err := json.Unmarshal(b, &r); err != nil {
			return 0, err
		}
		if r.Volume == volume && r.PID != 0 {
			return r.PID, nil
		}
	}
	return 0, fmt.Errorf("volume %s is not mounted on node %s", volume, node)
}

// isServer tells whether a process is a mount server of a node, with a process id inside of its container.
func isServer(proc, node string, inside int) bool {
	cgroup, err1 := os.ReadFile(filepath.Join(proc, "cgroup"))
	args, err2 := os.ReadFile(filepath.Join(proc, "cmdline"))
	status, err3 := os.ReadFile(filepath.Join(proc, "status"))
	if err1 != nil || err2 != nil || err3 != nil {
		return false
	}
	if !bytes.Contains(cgroup, []byte("/"+node+"/")) || !bytes.Contains(args, []byte("\x00mount\x00")) && !bytes.HasSuffix(args, []byte("\x00mount")) {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			f := strings.Fields(ids)
			return f[len(f)-1] == strconv.Itoa(inside)
		}
	}
	return false
}

// Kill kills a process.
func (c *Cluster) Kill(pid int) {
	c.t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
}

// Helm runs helm.
func (c *Cluster) Helm(args ...string) string {
	c.t.Helper()
	out, err := c.run(c.ctx, "", "helm", args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}
