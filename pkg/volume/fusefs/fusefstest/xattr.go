package fusefstest

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// listChildEnv contains the file whose attributes a child process lists. If it is "wait", the child
// process waits until its standard input ends.
const listChildEnv = "SEALVOL_FUSEFSTEST_LIST"

func init() {
	path := os.Getenv(listChildEnv)
	switch path {
	case "":
		return
	case "wait":
		_, _ = io.Copy(io.Discard, os.Stdin)
	default:
		names, err := list(path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if _, err := os.Stdout.WriteString(names); err != nil {
			os.Exit(1)
		}
	}
	os.Exit(0)
}

// list returns the names of a file's attributes, each followed by a space.
func list(path string) (string, error) {
	b := make([]byte, 4096)
	n, err := unix.Listxattr(path, b)
	if err != nil {
		return "", err
	}
	return strings.ReplaceAll(string(b[:n]), "\x00", " "), nil
}

// inUserNamespace returns a command that runs this program as root of a new user namespace, with
// the users starting at first mapped to it.
func inUserNamespace(first int, what string) (*exec.Cmd, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), listChildEnv+"="+what)
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: first, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	return cmd, nil
}

// xattrNames checks that the same names as on ext4 are allowed, and that trusted attributes are
// listed only for CAP_SYS_ADMIN in the initial user namespace.
func xattrNames(t *testing.T, dir string) {
	f := dir + "/f"
	must(t, os.WriteFile(f, nil, 0o666))
	must(t, os.Chmod(f, 0o666))
	const value = "v"
	for name, want := range map[string]unix.Errno{
		"user.k": 0, "trusted.t": 0, "security.s": 0, "user.k.with.dots": 0,
		"user.": unix.EINVAL, "trusted.": unix.EINVAL, "security.": unix.EINVAL,
		"bogus.ns": unix.EOPNOTSUPP, "user": unix.EOPNOTSUPP, "userk": unix.EOPNOTSUPP, "User.k": unix.EOPNOTSUPP, ".": unix.EOPNOTSUPP,
		"system.": unix.EOPNOTSUPP, "system.nfs4_acl": unix.EOPNOTSUPP, "system.data": unix.EOPNOTSUPP, "system.posix_acl_accessx": unix.EOPNOTSUPP,
	} {
		if want == 0 {
			must(t, unix.Setxattr(f, name, []byte(value), 0))
			continue
		}
		wantErr(t, "set "+name, unix.Setxattr(f, name, []byte(value), 0), want)
		_, err := unix.Getxattr(f, name, make([]byte, 10))
		wantErr(t, "get "+name, err, want)
		wantErr(t, "remove "+name, unix.Removexattr(f, name), want)
	}
	must(t, unix.Removexattr(f, "user.k.with.dots"))
	seen := func(who, names, want string, err error) {
		t.Helper()
		if got := sorted(names); err != nil || got != want {
			t.Errorf("%s sees %q, %v, want %q", who, got, err, want)
		}
	}
	const all, public = "security.s trusted.t user.k", "security.s user.k"
	names, err := list(f)
	seen("root", names, all, err)
	asUser(t, func() { names, err = list(f) })
	seen("a user", names, public, err)
	cmd, err := inUserNamespace(0, f)
	must(t, err)
	out, err := cmd.Output()
	seen("root of a user namespace", string(out), public, err)

	mapped := idmapped(t, dir)
	names, err = list(mapped + "/f")
	seen("root on an idmapped mount", names, all, err)
	asUser(t, func() { names, err = list(mapped + "/f") })
	seen("a user on an idmapped mount", names, public, err)
}

func sorted(names string) string {
	s := strings.Fields(names)
	slices.Sort(s)
	return strings.Join(s, " ")
}

// idmapped mounts dir a second time, with all ids shifted.
func idmapped(t *testing.T, dir string) string {
	t.Helper()
	child, err := inUserNamespace(100000, "wait")
	must(t, err)
	stdin, err := child.StdinPipe()
	must(t, err)
	must(t, child.Start())
	defer func() {
		must(t, stdin.Close())
		must(t, child.Wait())
	}()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", child.Process.Pid))
	must(t, err)
	defer ns.Close()
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	must(t, err)
	defer unix.Close(tree)
	must(t, unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}))
	to := filepath.Join(t.TempDir(), "mapped")
	must(t, os.Mkdir(to, 0o755))
	must(t, os.Chmod(filepath.Dir(to), 0o755))
	must(t, unix.MoveMount(tree, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH))
	t.Cleanup(func() {
		if err := unix.Unmount(to, 0); err != nil {
			t.Errorf("unmount the idmapped mount: %v", err)
		}
	})
	return to
}
