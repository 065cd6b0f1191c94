package volume

import (
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// maxStray bounds the directories on one path whose NameSub is not their name's.
const maxStray = 1 << 16

// reach walks through all directories below the root, depth first. It needs no memory: each
// directory has exactly one name, which is in its parent, and knows its place there. The places of
// others are kept: those that an early version wrote, or that are wrong.
type reach struct {
	v       *Volume
	dir     uint64
	in      layout.Inode // of dir
	sub     uint64       // names of dir from here on are to be visited
	visited uint64
	stray   []strayDir
}

type strayDir struct{ dir, sub uint64 }

// checkReachable checks that all directories, want apart from the root, are below the root. The
// names of directories and their parents agree. So any other directory is in a cycle, or below one.
func (l *Loader) checkReachable(want uint64) error {
	r := &reach{v: l.v}
	if err := r.enter(uint64(vfs.RootIno)); err != nil {
		return err
	}
	for {
		more, err := r.step()
		switch {
		case err != nil:
			return err
		case r.visited > want:
			return invalidFact("there are more than %d directories", want)
		case more:
		case r.visited < want:
			return invalidFact("%d directories are not below the root directory", want-r.visited)
		default:
			return nil
		}
	}
}

// enter goes to the begin of a directory.
func (r *reach) enter(dir uint64) (err error) {
	r.dir, r.sub = dir, 0
	r.in, err = r.v.table.readInode(dir)
	return err
}

// step goes to the next directory, or back to the parent. It returns false at the end.
func (r *reach) step() (more bool, err error) {
	sub, child, err := r.nextDir()
	if err != nil {
		return false, err
	}
	if child == 0 {
		return r.leave()
	}
	parent := r.dir
	if err := r.enter(child); err != nil {
		return false, err
	}
	r.visited++
	if r.in.Parent != parent || r.in.NameSub != sub {
		if len(r.stray) == maxStray {
			return false, invalidFact("more than %d nested directories do not know their names", maxStray)
		}
		r.stray = append(r.stray, strayDir{child, sub})
	}
	return true, nil
}

// nextDir finds the next name of a directory in dir; child is 0 if there is none.
func (r *reach) nextDir() (sub, child uint64, err error) {
	if r.in.Nlink <= 2 {
		return 0, 0, nil
	}
	var derr error
	err = r.v.fs.Scan(items.NameKey(r.dir, r.sub), items.NameKey(r.dir, ^uint64(0)), func(k layout.Key, val []byte) bool {
		n, err := layout.DecodeName(val)
		if derr = err; err == nil && n.Type == items.ModeDir {
			sub, child = k.Sub, n.Ino
		}
		return child == 0 && err == nil
	})
	if err == nil {
		err = derr
	}
	return sub, child, err
}

// leave goes back to the parent, behind the name of dir.
func (r *reach) leave() (more bool, err error) {
	if r.dir == uint64(vfs.RootIno) {
		return false, nil
	}
	sub, dir := r.in.NameSub, r.dir
	if n := len(r.stray); n > 0 && r.stray[n-1].dir == dir {
		sub, r.stray = r.stray[n-1].sub, r.stray[:n-1]
	}
	if err := r.enter(r.in.Parent); err != nil {
		return false, err
	}
	r.sub = sub + 1
	return true, nil
}
