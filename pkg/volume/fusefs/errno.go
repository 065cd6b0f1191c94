package fusefs

import (
	"errors"
	"fmt"
	"log/slog"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// errnos is the only translation of vfs errors. All other errors become EIO.
var errnos = []struct {
	err   error
	errno syscall.Errno
}{
	{vfs.ErrNotExist, syscall.ENOENT},
	{vfs.ErrExist, syscall.EEXIST},
	{vfs.ErrNotDir, syscall.ENOTDIR},
	{vfs.ErrIsDir, syscall.EISDIR},
	{vfs.ErrNotEmpty, syscall.ENOTEMPTY},
	{vfs.ErrNameTooLong, syscall.ENAMETOOLONG},
	{vfs.ErrInvalid, syscall.EINVAL},
	{vfs.ErrNotPermitted, syscall.EPERM},
	{vfs.ErrTooManyLinks, syscall.EMLINK},
	{vfs.ErrNoSpace, syscall.ENOSPC},
	{vfs.ErrFileTooBig, syscall.EFBIG},
	{vfs.ErrReadOnly, syscall.EROFS},
	{vfs.ErrNotSupported, syscall.EOPNOTSUPP},
	{vfs.ErrNoXattr, syscall.ENODATA},
	{vfs.ErrXattrTooBig, syscall.E2BIG},
	{vfs.ErrNoData, syscall.ENXIO},
	{vfs.ErrStale, syscall.ESTALE},
	{vfs.ErrCorrupt, syscall.EIO},
	{vfs.ErrIO, syscall.EIO},
	{vfs.ErrClosed, syscall.EIO},
}

// status returns the answer to an operation that ended with err. It logs errors that an
// administrator must know about. Log messages must not contain names or data. Only the texts of vfs
// errors are logged, because they contain neither.
func (r *raw) status(op string, ino vfs.Ino, err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	for _, e := range errnos {
		if !errors.Is(err, e.err) {
			continue
		}
		if r.damaged != nil && errors.Is(e.err, vfs.ErrCorrupt) {
			r.damaged(ino)
		}
		if e.errno == syscall.EIO && r.mayLog() {
			r.log.Error("operation failed", slog.String("op", op), slog.Uint64("inode", uint64(ino)), slog.Any("error", err))
		}
		return fuse.Status(e.errno)
	}
	if r.mayLog() {
		r.log.Error("operation failed with an unknown error", slog.String("op", op),
			slog.Uint64("inode", uint64(ino)), slog.String("type", fmt.Sprintf("%T", err)))
	}
	return fuse.EIO
}

// The maximum number of failures that are logged per second. A damaged file may be read very often.
const failuresLogged = 20

// mayLog counts a failure, and tells whether it should be logged.
func (r *raw) mayLog() bool {
	now := time.Now().Unix()
	r.failMu.Lock()
	defer r.failMu.Unlock()
	if now != r.failSecond {
		if dropped := r.failCount - failuresLogged; dropped > 0 {
			r.log.Error("more operations failed; their errors were not logged", slog.Int64("count", dropped))
		}
		r.failSecond, r.failCount = now, 0
	}
	r.failCount++
	return r.failCount <= failuresLogged
}
