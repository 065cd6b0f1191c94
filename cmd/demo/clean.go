package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

const (
	fusectl  = "/sys/fs/fuse/connections" // see the kernel's documentation of FUSE: …/connections/N/abort
	killWait = 10 * time.Second
)

// adoptOrphans makes descendants that lose their parent children of this process.
func adoptOrphans() error {
	return os.NewSyscallError("prctl PR_SET_CHILD_SUBREAPER", unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
}

// children lists the child processes of this process, including zombies, from /proc.
func children() []int {
	var list []int
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		// pid (name) state parent: proc_pid_stat(5). The name may contain any characters.
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) > 1 && string(fields[1]) == strconv.Itoa(os.Getpid()) {
			list = append(list, pid)
		}
	}
	return list
}

// killAll kills all descendants: first the children, then the processes that become children
// because of that, and so on. Meanwhile, it calls between, which must free processes that wait for
// a FUSE server.
func killAll(between func()) error {
	deadline := time.Now().Add(killWait)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		list := children()
		if len(list) == 0 {
			return nil
		}
		for _, pid := range list {
			unix.Kill(pid, unix.SIGKILL)                      //nolint:errcheck // it may be gone
			unix.Wait4(pid, nil, unix.WNOHANG|unix.WALL, nil) //nolint:errcheck // looked at in the next round
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("these processes did not end: %v", list)
		}
		between()
		<-tick.C
	}
}

// mountsBelow lists the mounts below a directory, the last one first. It opens no files there.
func mountsBelow(dir string) ([]*mountinfo.Info, error) {
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(i.Mountpoint, dir+"/"), false
	})
	for i, j := 0, len(infos)-1; i < j; i, j = i+1, j-1 {
		infos[i], infos[j] = infos[j], infos[i]
	}
	return infos, err
}

// abortBelow aborts the FUSE connections of the mounts below dir, so that waiting processes get an
// error.
func abortBelow(dir string) {
	infos, err := mountsBelow(dir)
	if err != nil {
		return
	}
	for _, i := range infos {
		if strings.HasPrefix(i.FSType, "fuse.") {
			os.WriteFile(fmt.Sprintf("%s/%d/abort", fusectl, i.Minor), []byte("1"), 0) //nolint:errcheck // with its server gone it is aborted anyway
		}
	}
}

// unmountBelow detaches the mounts below dir without waiting.
func unmountBelow(dir string) error {
	infos, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for _, i := range infos {
		if err := unix.Unmount(i.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", i.Mountpoint, err)
		}
	}
	if infos, err = mountsBelow(dir); err == nil && len(infos) > 0 {
		err = fmt.Errorf("%s is still mounted", infos[0].Mountpoint)
	}
	return err
}

// clean removes everything of a demo in dir, in any state. gone is closed when the steps have
// ended, because a step that clean has freed from waiting may still create a file or start a
// program.
func clean(dir string, gone <-chan struct{}) error {
	free := func() error {
		err := killAll(func() { abortBelow(dir) })
		abortBelow(dir)
		return errors.Join(err, unmountBelow(dir))
	}
	err := free()
	select {
	case <-gone:
	case <-time.After(graceTime):
	}
	if err = errors.Join(err, free()); err != nil {
		return err // do not remove files through a mount
	}
	return os.RemoveAll(dir)
}

// leftovers returns an error if a demo that has completed left something behind.
func leftovers(dir string) error {
	infos, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	if len(infos) > 0 {
		return fmt.Errorf("left mounted: %s", infos[0].Mountpoint)
	}
	for _, d := range []string{"local/volumes", "local/images", "mounter/volumes", "kubelet/pods", "kubelet/staging"} {
		entries, err := os.ReadDir(filepath.Join(dir, d))
		if err != nil {
			return err
		}
		if len(entries) > 0 {
			return fmt.Errorf("left behind: %s", filepath.Join(d, entries[0].Name()))
		}
	}
	return nil
}
