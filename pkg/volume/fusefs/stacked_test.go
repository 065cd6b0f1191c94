package fusefs_test

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/fusefs"
	"github.com/sealvol/sealvol/pkg/volume/fusefs/fusefstest"
	"github.com/sealvol/sealvol/pkg/volume/vfs/vfstest"
)

// Of several mounts on a directory, ConnectionID sees the topmost, which paths lead to: whoever aborts
// or unmounts by that number must not hit a mount below.
func TestConnectionOfTopmostMount(t *testing.T) {
	below := fusefstest.Mount(t, vfstest.NewMemFS(), fusefstest.Options{})
	f, err := fusefs.Mount(below.Dir, fusefs.MountOptions{})
	if err != nil {
		t.Fatal(err)
	}
	id, err := fusefs.ConnectionID(below.Dir)
	if err := errors.Join(err, f.Close(), fusefs.Unmount(below.Dir, true)); err != nil {
		t.Fatal(err)
	}
	if id == below.Connection {
		t.Error("this is the connection of the mount below")
	}
	if id, err := fusefs.ConnectionID(below.Dir); err != nil || id != below.Connection {
		t.Errorf("without the upper mount: connection %d, not %d: %v", id, below.Connection, err)
	}
	if err := unix.Mount("above", below.Dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	id, err = fusefs.ConnectionID(below.Dir)
	if uerr := fusefs.Unmount(below.Dir, true); uerr != nil {
		t.Fatal(uerr)
	}
	if err == nil {
		t.Errorf("beneath a tmpfs: connection %d", id)
	}
}
