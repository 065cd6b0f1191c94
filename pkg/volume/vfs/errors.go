package vfs

import "errors"

// The kinds of failure. Implementations wrap these errors with details. fusefs maps them to errno,
// in one place.
var (
	ErrNotExist     = errors.New("no such file or directory")          // ENOENT
	ErrExist        = errors.New("file exists")                        // EEXIST
	ErrNotDir       = errors.New("not a directory")                    // ENOTDIR
	ErrIsDir        = errors.New("is a directory")                     // EISDIR
	ErrNotEmpty     = errors.New("directory not empty")                // ENOTEMPTY
	ErrNameTooLong  = errors.New("file name too long")                 // ENAMETOOLONG
	ErrInvalid      = errors.New("invalid argument")                   // EINVAL
	ErrNotPermitted = errors.New("operation not permitted")            // EPERM
	ErrTooManyLinks = errors.New("too many links")                     // EMLINK
	ErrNoSpace      = errors.New("no space left on volume")            // ENOSPC
	ErrFileTooBig   = errors.New("file too large")                     // EFBIG
	ErrReadOnly     = errors.New("volume is read-only")                // EROFS
	ErrNotSupported = errors.New("operation not supported")            // EOPNOTSUPP
	ErrNoXattr      = errors.New("no such attribute")                  // ENODATA
	ErrXattrTooBig  = errors.New("attribute value too large")          // E2BIG
	ErrNoData       = errors.New("no data or hole beyond this offset") // ENXIO
	ErrStale        = errors.New("inode no longer exists")             // ESTALE
	ErrCorrupt      = errors.New("stored data is damaged")             // EIO: authentication or structure failed
	ErrIO           = errors.New("device error")                       // EIO: the device failed
	ErrClosed       = errors.New("volume is closed")                   // EIO
)
