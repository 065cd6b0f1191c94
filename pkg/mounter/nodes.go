package mounter

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// placeNodes makes the target hold nodes of the present devices.
func (m *Mounter) placeNodes(r *record) error {
	devs, err := m.current(r)
	if err != nil {
		return err
	}
	top, err := at(r.Target)
	if err != nil {
		return err
	}
	if top != nil && !isNodes(top, r.Source) {
		return fmt.Errorf("%w: something else is mounted at the target", ErrConflict)
	}
	if top != nil {
		ok, err := addNodes(r.Target, devs)
		if ok || err != nil {
			return err
		}
		// These are nodes of a server that died.
		m.opt.Hook("clear nodes")
		if err := unmountLazily(r.Source, r.Target); err != nil {
			return err
		}
	}
	m.opt.Hook("place nodes")
	return mountNodes(r.Source, r.Target, devs)
}

func nodeName(l loopDev) string {
	if l.ReadOnly {
		return NodeRO
	}
	return NodeRW
}

func makeNode(dir int, l loopDev) error {
	return unix.Mknodat(dir, nodeName(l), unix.S_IFBLK|0o660, int(l.rdev()))
}

// addNodes adds missing nodes. It returns false if a node of another device is there.
func addNodes(target string, devs []loopDev) (bool, error) {
	dir, err := unix.Openat2(unix.AT_FDCWD, target, &unix.OpenHow{Flags: unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return false, fmt.Errorf("open device nodes: %w", err)
	}
	defer unix.Close(dir)
	for _, l := range devs {
		if err := makeNode(dir, l); err != nil && !errors.Is(err, unix.EEXIST) {
			return false, fmt.Errorf("create device node: %w", err)
		}
		var st unix.Stat_t
		if err := unix.Fstatat(dir, nodeName(l), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return false, fmt.Errorf("inspect device node: %w", err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFBLK || st.Rdev != l.rdev() {
			return false, nil
		}
	}
	return true, nil
}

// mountNodes mounts a tmpfs with the nodes. It appears with all of them at once.
func mountNodes(source, target string, devs []loopDev) error {
	at, err := unix.Openat2(unix.AT_FDCWD, target, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return fmt.Errorf("open mount point: %w", err)
	}
	defer unix.Close(at)
	conf, err := unix.Fsopen(NodeFSType, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("tmpfs of device nodes: %w", err)
	}
	defer unix.Close(conf)
	for _, o := range [][2]string{{"source", source}, {"size", "64k"}, {"nr_inodes", "8"}, {"mode", "0700"}} {
		if err := unix.FsconfigSetString(conf, o[0], o[1]); err != nil {
			return fmt.Errorf("tmpfs of device nodes: %s: %w", o[0], err)
		}
	}
	if err := unix.FsconfigCreate(conf); err != nil {
		return fmt.Errorf("tmpfs of device nodes: %w", err)
	}
	mnt, err := unix.Fsmount(conf, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return fmt.Errorf("tmpfs of device nodes: %w", err)
	}
	defer unix.Close(mnt)
	for _, l := range devs {
		if err := makeNode(mnt, l); err != nil {
			return fmt.Errorf("create device node: %w", err)
		}
	}
	if err := unix.MoveMount(mnt, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount device nodes: %w", err)
	}
	return nil
}
