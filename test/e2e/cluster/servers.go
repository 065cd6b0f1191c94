package cluster

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Server returns the process on this machine that serves a volume of a node.
func (c *Cluster) Server(node, volume string) int {
	c.t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		c.t.Fatal(err)
	}
	for _, n := range names {
		// Not ps: it hangs on a process that waits for a hanging file system.
		if b, err := os.ReadFile(n); err != nil || string(b) != "exe\n" { // the mounter starts itself again, through /proc/self/exe
			continue
		}
		dir := filepath.Dir(n)
		if isServer(dir, node, volume) {
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

// isServer tells whether a process is the mount server of a volume on a node, by the name that ps
// shows.
func isServer(proc, node, volume string) bool {
	cgroup, err1 := os.ReadFile(filepath.Join(proc, "cgroup"))
	args, err2 := os.ReadFile(filepath.Join(proc, "cmdline"))
	return err1 == nil && err2 == nil && bytes.Contains(cgroup, []byte("/"+node+"/")) && bytes.HasPrefix(args, []byte("sealvol-mount:"+volume+"\x00"))
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
	out, err := c.TryHelm(args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// TryHelm is Helm for commands that may fail.
func (c *Cluster) TryHelm(args ...string) (string, error) { return c.run(c.ctx, "", "helm", args...) }
