package main

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Exit codes; see docs/cli.md.
const (
	exitOK      = 0
	exitFailed  = 1
	exitDamaged = 4 // fsck found damage
	exitUnable  = 8 // fsck could not check
	exitUsage   = 16
)

// codeError is an error with an exit code of its own, and perhaps a hint.
type codeError struct {
	err  error
	code int
	hint string
}

func (e *codeError) Error() string { return e.err.Error() }
func (e *codeError) Unwrap() error { return e.err }

func usageError(err error) error { return &codeError{err: err, code: exitUsage} }

func withHint(err error, hint string) error {
	return &codeError{err: err, code: exitCode(err), hint: hint}
}

// errReported ends the program with a code; everything was said before.
var errReported = errors.New("reported")

// exitCode of a command that ended with err.
func exitCode(err error) int {
	var c *codeError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &c):
		return c.code
	case errors.Is(err, errKeyFlags):
		return exitUsage
	}
	return exitFailed
}

// hints say what to do; the first that fits is shown.
var hints = []struct {
	err  error
	hint string
}{
	{crypto.ErrWrongKey, "check that this key belongs to this volume; `sealvol info DEVICE` shows which kinds of key it takes"},
	{crypto.ErrPassphraseLines, "leave one line in the file; volumes that an earlier version sealed with all of such a file still open with it"},
	{volume.ErrShredded, "that can not be undone: restore the data to a new volume from a backup"},
	{volume.ErrLastKey, "add another key first (`sealvol key add`), or repeat with --last if nothing is to open the volume again"},
	{volume.ErrKeyMissing, "give the keys of these slots, too, or remove the slots with --drop-slots"},
	{volume.ErrNoSuchKey, "`sealvol key list` shows the slots in use"},
	{volume.ErrNoFreeSlot, "remove one first: `sealvol key remove`"},
	{volume.ErrRolledBack, "do not use this copy of the device: an older state was put in its place; find the newest one"},
	{volume.ErrForked, "do not use this copy of the device: it went its own way; find the one that was anchored"},
	{volume.ErrOtherVolume, "check the device's name, and which anchor file belongs to it"},
	{volume.ErrNewerFormat, "install a newer sealvol"},
	{volume.ErrNotSealvol, "check the device's name; `sealvol mkfs` makes a volume, and overwrites what is there"},
	{volume.ErrInUse, "a volume can be opened once: unmount it (`sealvol umount DIR`), or end the program that has it open"},
	{device.ErrNotFound, "check the path"},
	{volume.ErrNotEmpty, "look at it first; if nothing of it is needed, repeat with --force"},
	{volume.ErrTruncated, "the image was cut or not copied whole, or the device shrank: restore its full size or take another copy"},
	{volume.ErrTooSmall, "give a larger device, or a larger --size"},
	{volume.ErrForged, "somebody else than a holder of the key changed the header: do not trust this copy, take an older one"},
	{volume.ErrHeader, "run `sealvol fsck`; make a copy of the device before anything else"},
	{volume.ErrNoRoot, "no state of the volume can be read: restore a copy of the device"},
	{volume.ErrLogDamaged, "what was acknowledged can not be replayed: make a copy of the device and run `sealvol fsck`"},
	{volume.ErrMemory, "mount it with a larger --memory; if it was not cleanly unmounted, a read-write mount needs less than a read-only one"},
	{vfs.ErrCorrupt, "run `sealvol fsck`, which names what is damaged"},
	{vfs.ErrIO, "look at the kernel's log for errors of the device"},
	{selfenc.ErrKey, "check that this is the tenant secret that encrypted it"},
	{selfenc.ErrNoSuchChunk, "check that --store is where it was encrypted to; if it is, the store lost a chunk: encrypting the file again puts it back"},
	{selfenc.ErrCorrupt, "the store damaged a chunk: delete that chunk there and encrypt the file again"},
	{selfenc.ErrMap, "check the file's name; take another copy of the map"},
	{os.ErrPermission, "run it as a user who may do that, such as root"},
	{unix.ENOSPC, "the disk below is full: free some space there"},
}

// hint says what can be done about err, "" if there is nothing to say.
func hint(err error) string {
	var c *codeError
	if errors.As(err, &c) && c.hint != "" {
		return c.hint
	}
	for _, h := range hints {
		if errors.Is(err, h.err) {
			return h.hint
		}
	}
	return ""
}
