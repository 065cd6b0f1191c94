package vfs

// Wrapper is an FS that changes some calls of another FS, and passes on the others. As finds
// optional interfaces of the wrapped FS.
type Wrapper interface {
	FS
	// Unwrap returns the FS that calls are passed on to.
	Unwrap() FS
}

// As returns fs, or the first FS that it wraps, that implements T. T is an optional interface of
// file systems.
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

// Parker is an FS with calls that may wait for a long time, such as those of a frozen volume.
type Parker interface {
	// OnPark sets a function that is called when a call begins to wait (1) and when it continues
	// (-1).
	OnPark(fn func(n int))
}

// InoReuser is an FS whose inode numbers may belong to another inode in a later mount.
type InoReuser interface {
	// ReusesInos tells whether inode numbers may be reused in a later mount.
	ReusesInos() bool
}
