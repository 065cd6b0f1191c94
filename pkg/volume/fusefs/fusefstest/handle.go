package fusefstest

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// dropInodes makes the kernel forget unused inodes. It does not wait: FORGETs may arrive later.
func dropInodes(t *testing.T) {
	t.Helper()
	must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0))
}

// fileHandles checks that a handle finds its file after the kernel has forgotten it, even if the
// file was moved. After the last name is removed, the handle is stale, unless the file is open.
func fileHandles(t *testing.T, dir string) {
	root := open(t, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	must(t, os.MkdirAll(dir+"/a/b", 0o755))
	must(t, os.Mkdir(dir+"/gone", 0o755))
	handle := func(path string) unix.FileHandle {
		t.Helper()
		h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, dir+path, 0)
		must(t, err)
		return h
	}
	handles := map[string]unix.FileHandle{"root": handle("")}
	for _, name := range []string{"stays", "moved", "linked", "unlinked", "held"} {
		must(t, os.WriteFile(dir+"/a/b/"+name, []byte(name), 0o600))
		handles[name] = handle("/a/b/" + name)
	}
	handles["directory"], handles["rmdir"] = handle("/a/b"), handle("/gone")
	held := open(t, dir+"/a/b/held", unix.O_RDONLY)
	must(t, os.Link(dir+"/a/b/linked", dir+"/second"))
	for _, name := range []string{"/a/b/linked", "/a/b/unlinked", "/a/b/held", "/gone"} {
		must(t, os.Remove(dir+name))
	}
	must(t, os.Rename(dir+"/a/b/moved", dir+"/third"))
	must(t, os.Rename(dir+"/a/b", dir+"/c"))
	dropInodes(t)
	for name, want := range map[string]error{"stays": nil, "moved": nil, "linked": nil, "held": nil, "directory": nil, "root": nil, "unlinked": unix.ESTALE, "rmdir": unix.ESTALE} {
		fd, err := unix.OpenByHandleAt(root, handles[name], unix.O_RDONLY|unix.O_CLOEXEC)
		if !errors.Is(err, want) {
			t.Errorf("%s: open by handle: %v, want %v", name, err, want)
		}
		if err != nil {
			continue
		}
		b := make([]byte, 100)
		switch name {
		case "root", "directory":
			if _, err := unix.ReadDirent(fd, b); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		default:
			if n, err := unix.Pread(fd, b, 0); err != nil || string(b[:n]) != name {
				t.Errorf("%s: reads %q, %v", name, b[:n], err)
			}
		}
		unix.Close(fd)
	}
	unix.Close(held)
	// The kernel can find the path of a directory that it opened by a handle.
	dropInodes(t)
	fd, err := unix.OpenByHandleAt(root, handles["directory"], unix.O_RDONLY|unix.O_CLOEXEC)
	must(t, err)
	defer unix.Close(fd)
	up, err := unix.Openat(fd, "../third", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	must(t, err)
	unix.Close(up)
	// Numbers that no handle ever contained.
	known := handles["stays"]
	for _, id := range []byte{0, 200, 255} {
		b := append([]byte{}, known.Bytes()...)
		for i := range 8 {
			b[i] = id
		}
		if fd, err := unix.OpenByHandleAt(root, unix.NewFileHandle(known.Type(), b), unix.O_RDONLY); !errors.Is(err, unix.ESTALE) {
			t.Errorf("made up handle of bytes %d: %d, %v", id, fd, err)
			unix.Close(fd)
		}
	}
}
