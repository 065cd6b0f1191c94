package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// envInside is set in the demo that runs in a user namespace.
const envInside = "SEALVOL_DEMO_INSIDE"

// checkMachine reports everything that is missing for the demo at once.
func checkMachine(tools ...string) error {
	var missing []error
	for _, t := range tools {
		if _, err := exec.LookPath(t); err != nil {
			missing = append(missing, fmt.Errorf("%s is not installed (`make setup`, run as root, installs it)", t))
		}
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		missing = append(missing, errors.New("/dev/fuse is missing: load the module (modprobe fuse), or pass the device into the container"))
	case err != nil:
		missing = append(missing, fmt.Errorf("/dev/fuse cannot be opened by this user (%w): run as root, or chmod 0666 /dev/fuse", err))
	default:
		unix.Close(fd)
	}
	return errors.Join(missing...)
}

// mayMount tells whether this process has CAP_SYS_ADMIN.
func mayMount() bool {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	err := unix.Capget(&h, &d[0])
	return err == nil && d[0].Effective>>unix.CAP_SYS_ADMIN&1 != 0
}

// becomeMounter gives this process the permission to mount. For a user without it, it starts the
// demo again in a new user and mount namespace, where the kernel allows FUSE (since Linux 4.18).
// fusermount3 is not sufficient, because CSI requires the driver to make bind mounts. On success,
// becomeMounter does not return.
func becomeMounter() error {
	if mayMount() {
		if os.Getenv(envInside) == "" {
			return nil
		}
		// Mount servers and commands of root meet in /run, which this user may not write to. So the
		// namespace gets one of its own.
		return os.NewSyscallError("mount a tmpfs on /run", unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=16m"))
	}
	const need = "without root, the demo needs a new user namespace to mount in"
	if os.Getenv(envInside) != "" {
		return fmt.Errorf("%s, but even there it may not mount: run as root", need)
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return fmt.Errorf("%s: unshare (util-linux) is not installed; install it, or run as root", need)
	}
	args := []string{"unshare", "--user", "--map-root-user", "--mount", "--"}
	if out, err := exec.Command(unshare, append(args[1:], "true")...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s, but this system refuses it (%s: %w; check the sysctls user.max_user_namespaces, kernel.unprivileged_userns_clone and "+
			"kernel.apparmor_restrict_unprivileged_userns): run as root", need, bytes.TrimSpace(out), err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return os.NewSyscallError("execve", syscall.Exec(unshare, append(append(args, self), os.Args[1:]...), append(os.Environ(), envInside+"=1")))
}
