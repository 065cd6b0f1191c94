package doublecrypt

import (
	"errors"
	"strings"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// split cuts a path into its parent's components and its last one.
func split(path string) (dirs []string, name string) {
	path = strings.Trim(path, "/")
	if path == "" {
		return nil, ""
	}
	all := strings.Split(path, "/")
	return all[:len(all)-1], all[len(all)-1]
}

// walkTo resolves directories. v.mu is held.
func (v *Volume) walkTo(dirs []string) (*node, error) {
	if v.closed {
		return nil, &Error{Variant: NotInitialized, err: vfs.ErrClosed}
	}
	n := v.root
	for _, name := range dirs {
		e := n.names[name]
		switch {
		case e == nil:
			return nil, &Error{Variant: DirectoryNotFound, Name: name, err: vfs.ErrNotExist}
		case !e.node.dir:
			return nil, &Error{Variant: NotADirectory, Name: name, err: vfs.ErrNotDir}
		}
		n = e.node
	}
	return n, n.damage
}

// resolve finds the parent of a path, and the path's own inode if it exists.
func (v *Volume) resolve(path string) (d, n *node, name string, err error) {
	dirs, name := split(path)
	if name == "" {
		return nil, nil, "", &Error{Variant: Internal, err: errEmptyPath}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	d, err = v.walkTo(dirs)
	if err == nil && d.names[name] != nil {
		n = d.names[name].node
	}
	return d, n, name, err
}

// within tells that a path lies beneath another, by its words alone, whether
// there is anything: so does the reference.
func within(path, above string) bool {
	above = strings.Trim(above, "/")
	return above != "" && strings.HasPrefix(strings.Trim(path, "/"), above+"/")
}

// coreName checks a new name as the reference does; and refuses two more.
func coreName(name string) error {
	switch {
	case len(name) > vfs.MaxNameBytes:
		return &Error{Variant: NameTooLong, Value: uint64(len(name)), Max: vfs.MaxNameBytes, err: vfs.ErrNameTooLong}
	case checkName(name) != nil:
		return &Error{Variant: Internal, err: vfs.ErrInvalid}
	}
	return nil
}

// existing finds a file or directory that has to be there.
func (v *Volume) existing(path string) (d, n *node, name string, err error) {
	d, n, name, err = v.resolve(path)
	if err == nil && n == nil {
		err = &Error{Variant: FileNotFound, Name: name, err: vfs.ErrNotExist}
	}
	return d, n, name, err
}

// translate gives an error of the volume the reference's name. Between resolving
// a path and the operation others may have changed it: then the error is that of a missing file.
func translate(err error, name string) error {
	if e := (*Error)(nil); err == nil || errors.As(err, &e) {
		return err
	}
	for _, t := range []struct {
		err error
		to  Variant
	}{
		{vfs.ErrNotExist, FileNotFound}, {vfs.ErrStale, FileNotFound}, {vfs.ErrExist, FileAlreadyExists}, {vfs.ErrNoSpace, NoFreeBlocks},
		{vfs.ErrFileTooBig, DataTooLarge}, {vfs.ErrIsDir, NotAFile}, {vfs.ErrNotDir, NotADirectory}, {vfs.ErrNotEmpty, DirectoryNotEmpty},
		{vfs.ErrNameTooLong, NameTooLong}, {vfs.ErrClosed, NotInitialized},
	} {
		if errors.Is(err, t.err) {
			return &Error{Variant: t.to, Name: name, err: err}
		}
	}
	return &Error{Variant: Internal, err: err}
}

func (c *Core) create(path string, dir bool, exists Variant) error {
	v, done, err := c.use()
	if err != nil {
		return err
	}
	defer done()
	d, n, name, err := v.resolve(path)
	if err != nil {
		return err
	}
	if err := coreName(name); err != nil {
		return err
	}
	if n != nil {
		return &Error{Variant: exists, Name: name, err: vfs.ErrExist}
	}
	_, err = v.create(d.ino, name, dir)
	if errors.Is(err, vfs.ErrExist) { // made by another meanwhile
		return &Error{Variant: exists, Name: name, err: vfs.ErrExist}
	}
	return translate(err, name)
}

// theFile finds a file.
func (v *Volume) theFile(path string) (*node, error) {
	_, n, name, err := v.existing(path)
	if err == nil && n.dir {
		err = &Error{Variant: NotAFile, Name: name, err: vfs.ErrIsDir}
	}
	return n, err
}
