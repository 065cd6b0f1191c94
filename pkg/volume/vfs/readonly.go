package vfs

// ReadOnly returns a Reader as an FS that refuses all changes with ErrReadOnly.
func ReadOnly(r Reader) FS { return readOnly{r} }

type readOnly struct{ Reader }

func (readOnly) Sync(Ino) error { return nil }
func (readOnly) Forget(Ino)     {}

func (readOnly) Mknod(*Req, Ino, string, uint32, uint32) (Attr, error) { return Attr{}, ErrReadOnly }
func (readOnly) Mkdir(*Req, Ino, string, uint32) (Attr, error)         { return Attr{}, ErrReadOnly }
func (readOnly) Symlink(*Req, Ino, string, string) (Attr, error)       { return Attr{}, ErrReadOnly }
func (readOnly) Tmpfile(*Req, Ino, uint32) (Attr, error)               { return Attr{}, ErrReadOnly }
func (readOnly) Link(*Req, Ino, Ino, string) (Attr, error)             { return Attr{}, ErrReadOnly }
func (readOnly) Unlink(*Req, Ino, string) error                        { return ErrReadOnly }
func (readOnly) Rmdir(*Req, Ino, string) error                         { return ErrReadOnly }
func (readOnly) Rename(*Req, Ino, string, Ino, string, uint32) error   { return ErrReadOnly }

func (readOnly) SetAttr(*Req, Ino, *SetAttr) (Attr, error)          { return Attr{}, ErrReadOnly }
func (readOnly) Write(*Req, Ino, uint64, []byte, bool) (int, error) { return 0, ErrReadOnly }
func (readOnly) Fallocate(*Req, Ino, uint32, uint64, uint64) error  { return ErrReadOnly }
func (readOnly) SetXattr(*Req, Ino, string, []byte, uint32) error   { return ErrReadOnly }
func (readOnly) RemoveXattr(*Req, Ino, string) error                { return ErrReadOnly }
func (readOnly) CopyRange(*Req, Ino, uint64, Ino, uint64, uint64) (uint64, error) {
	return 0, ErrReadOnly
}
