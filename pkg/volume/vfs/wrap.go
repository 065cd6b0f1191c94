package vfs

// Wrapper is an FS that changes some calls of another one, and passes on the rest. What the other
// one can do besides, As finds behind it.
type Wrapper interface {
	FS
	// Unwrap returns the FS that calls are passed on to.
	Unwrap() FS
}

// As returns the first of fs and the file systems that it wraps which is a T: an optional interface
// of file systems.
func As[T any](fs FS) (t T, ok bool) {
	for {
		if t, ok = fs.(T); ok {
			return t, true
		}
		w, wraps := fs.(Wrapper)
		if !wraps {
			return t, false
		}
		fs = w.Unwrap()
	}
}

// Parker is an FS some of whose calls may wait for long without a device: those of a frozen volume.
type Parker interface {
	// OnPark has fn told of calls that begin to wait (1), and go on (-1).
	OnPark(fn func(n int))
}

// InoReuser is an FS whose inode numbers may mean another inode in a later mount.
type InoReuser interface {
	// ReusesInos tells whether they may.
	ReusesInos() bool
}
