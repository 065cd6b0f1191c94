package fusefs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/fusefs"
)

// victimEnv makes this program a victim.
const victimEnv = "SEALVOL_FUSEFS_VICTIM"

// TestMain acts as fusermount3 if it is called by that name, and as a victim.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "fusermount3" {
		if err := fusermount(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(victimEnv) != "" {
		fmt.Fprintln(os.Stderr, victim())
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// fusermount does the same as libfuse's program: it mounts and sends the descriptor.
func fusermount(args []string) error {
	dir := args[len(args)-1]
	if args[0] == "-u" {
		return unix.Unmount(dir, 0)
	}
	if args[0] != "-o" || !strings.Contains(args[1], "subtype=sealvol") || !strings.Contains(args[1], `fsname=a\,b`) {
		return fmt.Errorf("arguments %q", args)
	}
	f, err := fusefs.Mount(dir, fusefs.MountOptions{})
	if err != nil {
		return err
	}
	socket, err := strconv.Atoi(os.Getenv("_FUSE_COMMFD"))
	if err != nil {
		return err
	}
	return unix.Sendmsg(socket, []byte{0}, unix.UnixRights(int(f.Fd())), nil, 0)
}
