package walk

import (
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// maxLinks is the maximum number of symbolic links in one path, like MAXSYMLINKS of the kernel.
const maxLinks = 40

// Lookup finds a path in the volume. It follows symbolic links inside the volume. It follows a link
// at the end of the path only if follow is set.
func Lookup(fs vfs.Reader, p string, follow bool) (*Entry, error) {
	at, err := fs.GetAttr(vfs.RootIno)
	if err != nil {
		return nil, err
	}
	todo := strings.Split(p, "/")
	links := 0
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		next := at
		switch name {
		case "", ".":
			continue
		case "..":
			var up vfs.Ino
			if up, err = fs.Parent(at.Ino); err == nil {
				next, err = fs.GetAttr(up)
			}
		default:
			if at.Mode&unix.S_IFMT != unix.S_IFDIR {
				err = vfs.ErrNotDir
				break
			}
			next, err = fs.Lookup(at.Ino, name)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", Printable(p), err)
		}
		if next.Mode&unix.S_IFMT == unix.S_IFLNK && (follow || len(todo) > 0) {
			if links++; links > maxLinks {
				return nil, fmt.Errorf("%s: too many symbolic links", Printable(p))
			}
			target, err := fs.Readlink(next.Ino)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", Printable(p), err)
			}
			if strings.HasPrefix(target, "/") {
				if at, err = fs.GetAttr(vfs.RootIno); err != nil {
					return nil, err
				}
			}
			todo = append(strings.Split(target, "/"), todo...)
			continue
		}
		at = next
	}
	clean := path.Clean("/" + p)
	e := &Entry{Path: clean, Name: path.Base(clean), Attr: at}
	if clean == "/" {
		e.Name = ""
	}
	return e, nil
}
