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

// errnos is the only translation of vfs errors; what is not here is EIO.
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

// status is the answer to an operation that ended with err. What an
// administrator must hear of is logged. No message has a name or data in it: an
// error's text is logged only where it is one of vfs, whose texts have neither.
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
			r.log.Error("operation failed", slog.String("op", op), slog.Uint64("ino", uint64(ino)), slog.Any("err", err))
		}
		return fuse.Status(e.errno)
	}
	if r.mayLog() {
		r.log.Error("operation failed with an error of unknown kind", slog.String("op", op),
			slog.Uint64("ino", uint64(ino)), slog.String("type", fmt.Sprintf("%T", err)))
	}
	return fuse.EIO
}

// At most so many failures are logged in each second: a damaged file may be read
// very often.
const failuresLogged = 20

// mayLog counts a failure, and says whether it is one to log.
func (r *raw) mayLog() bool {
	now := time.Now().Unix()
	r.failMu.Lock()
	defer r.failMu.Unlock()
	if now != r.failSecond {
		if dropped := r.failCount - failuresLogged; dropped > 0 {
			r.log.Error("more operations failed than were logged", slog.Int64("count", dropped))
		}
		r.failSecond, r.failCount = now, 0
	}
	r.failCount++
	return r.failCount <= failuresLogged
}
