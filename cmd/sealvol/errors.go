package main

import (
	"errors"
	"net"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter/control"
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

// codeError is an error with its own exit code and an optional hint.
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

// errReported ends the program with an exit code, without printing anything more.
var errReported = errors.New("reported")

// exitCode returns the exit code of a command that ended with err.
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

// hintFor says what to do about an error.
type hintFor struct {
	err  error
	hint string
}

// hints are searched after storedHints. The first match is printed.
var hints = []hintFor{
	{crypto.ErrWrongKey, "check that this is a key of this volume; `sealvol info DEVICE` shows which kinds of key open it"},
	{crypto.ErrPassphraseLines, "keep only one line in the file; volumes that an earlier version created with all lines of such a file still open with it"},
	{volume.ErrShredded, "this cannot be undone; restore the data from a backup to a new volume"},
	{volume.ErrRestoring, "wait until the restore is complete; if it was interrupted, run the same restore again: it continues where it stopped"},
	{volume.ErrLastKey, "add another key first (`sealvol key add`); or use --last, and nobody can ever open the volume again"},
	{volume.ErrKeyMissing, "also give the keys of these slots, or use --drop-slots to remove the slots"},
	{volume.ErrNoSuchKey, "run `sealvol key list` to see the slots in use"},
	{volume.ErrNoFreeSlot, "remove a key first: `sealvol key remove`"},
	{volume.ErrRolledBack, "do not use this copy of the device; it was replaced by an older state; find the newest copy"},
	{volume.ErrForked, "do not use this copy of the device; it was changed independently of the anchored one; find the anchored copy"},
	{volume.ErrOtherVolume, "check that the device and the anchor file belong together"},
	{volume.ErrNewerFormat, "install a newer sealvol"},
	{volume.ErrNotSealvol, "check the device name; to create a volume there and overwrite the device, run `sealvol mkfs`"},
	{volume.ErrInUse, "only one process can open a volume: unmount it (`sealvol umount DIR`), or stop the program that has it open"},
	{device.ErrNotFound, "check the path"},
	{volume.ErrNotEmpty, "check what the device holds; to overwrite it, use --force"},
	{volume.ErrTruncated, "the device was truncated or copied incompletely; restore its full size or use another copy"},
	{volume.ErrTooSmall, "use a larger device or a larger --size"},
	{volume.ErrForged, "somebody without a key changed the header; do not trust this copy, restore an older one"},
	{volume.ErrHeader, "copy the device before anything else, then run `sealvol fsck`"},
	{volume.ErrNoRoot, "no state of the volume can be read; restore a copy of the device"},
	{volume.ErrLogDamaged, "synced changes in the log cannot be replayed; copy the device before anything else, then run `sealvol fsck`"},
	{volume.ErrMemory, "use a larger --memory; if the log must be replayed, a read-write mount needs less memory than a read-only one"},
	{vfs.ErrCorrupt, "run `sealvol fsck` to list the damage"},
	{vfs.ErrIO, "check the kernel log (dmesg) for errors of the device"},
	{selfenc.ErrKey, "check that the file was encrypted with this tenant secret"},
	{selfenc.ErrNoSuchChunk, "check that --store is the store that the file was encrypted to; if it is, the store lost a chunk: encrypt the file again to restore it"},
	{selfenc.ErrCorrupt, "the chunk is damaged in the store: delete it there and encrypt the file again"},
	{selfenc.ErrMap, "check the file name, or use another copy of the map"},
	{os.ErrPermission, "run the command as a user with permission, such as root"},
	{unix.ENOSPC, "the disk that holds the image, the store or the destination is full: free some space there"},
}

// hint says what the user can do about err. It is "" if there is nothing to say.
func hint(err error) string {
	var c *codeError
	if errors.As(err, &c) && c.hint != "" {
		return c.hint
	}
	for _, h := range slices.Concat(storedHints, hints) {
		if errors.Is(err, h.err) {
			return h.hint
		}
	}
	if control.HasCode(err, control.CodeUnknown) {
		return "this cannot be done with what is mounted there: a volume of format v1, a stored snapshot, or a volume whose mount server has another version"
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Net == "unix" && errors.Is(err, unix.ECONNREFUSED) {
		return "the mount server has died: remove its mount with `sealvol umount DIR`, then mount the volume again"
	}
	return ""
}
