package doublecrypt

import (
	"errors"
	"strings"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// split splits a path into the components of its parent and the last component.
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

// within tells whether a path is below another one. Like the reference implementation, it compares
// only the strings, even if the paths do not exist.
func within(path, above string) bool {
	above = strings.Trim(above, "/")
	return above != "" && strings.HasPrefix(strings.Trim(path, "/"), above+"/")
}

// coreName checks a new name like the reference implementation, and also refuses "." and "..".
func coreName(name string) error {
	switch {
	case len(name) > vfs.MaxNameBytes:
		return &Error{Variant: NameTooLong, Value: uint64(len(name)), Max: vfs.MaxNameBytes, err: vfs.ErrNameTooLong}
	case checkName(name) != nil:
		return &Error{Variant: Internal, err: vfs.ErrInvalid}
	}
	return nil
}

// existing finds a file or directory, which must exist.
func (v *Volume) existing(path string) (d, n *node, name string, err error) {
	d, n, name, err = v.resolve(path)
	if err == nil && n == nil {
		err = &Error{Variant: FileNotFound, Name: name, err: vfs.ErrNotExist}
	}
	return d, n, name, err
}

// translate translates an error of the volume to one of the reference implementation. If another
// call changed the path after it was resolved, the error is that of a missing file.
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
	if errors.Is(err, vfs.ErrExist) { // another call created it meanwhile
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
