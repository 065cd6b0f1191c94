package fusefs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

const helper = "fusermount3"

// mountHelper runs fusermount3, which opens /dev/fuse, mounts it and sends the descriptor through
// the socket in _FUSE_COMMFD (libfuse, util/fusermount.c).
func mountHelper(dir string, o MountOptions) (*os.File, error) {
	if _, _, err := o.parse(); err != nil {
		return nil, err
	}
	opts := []string{"default_permissions", fmt.Sprintf("max_read=%d", MaxDataBytes), "fsname=" + o.source(), "subtype=sealvol", "noatime"}
	if !o.Private {
		opts = append(opts, "allow_other")
	}
	opts = append(opts, o.Options...)
	escape := strings.NewReplacer(`\`, `\\`, `,`, `\,`)
	for i := range opts {
		opts[i] = escape.Replace(opts[i])
	}

	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "fusermount"), os.NewFile(uintptr(pair[1]), "fusermount")
	defer ours.Close()
	cmd := exec.Command(helper, "-o", strings.Join(opts, ","), "--", dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	err = runHelper(cmd)
	theirs.Close() // so that receiving ends if nothing is sent
	if err != nil {
		return nil, err
	}
	return receiveFile(int(ours.Fd()))
}

func unmountHelper(dir string, lazy bool) error {
	args := []string{"-u"}
	if lazy {
		args = append(args, "-z")
	}
	return runHelper(exec.Command(helper, append(args, "--", dir)...))
}

func runHelper(cmd *exec.Cmd) error {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", helper, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

// receiveFile receives one descriptor from a Unix socket.
func receiveFile(socket int) (*os.File, error) {
	data, control := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, data, control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	msgs, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(msgs) != 1 {
		return nil, errors.New(helper + " sent no descriptor")
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.New(helper + " sent no descriptor")
	}
	return os.NewFile(uintptr(fds[0]), devicePath), nil
}
