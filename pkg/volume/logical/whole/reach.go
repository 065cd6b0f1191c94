package whole

import "github.com/sealvol/sealvol/pkg/volume/vfs"

// maxStray bounds the directories on one path whose NameSub is not their name's.
const maxStray = 1 << 16

// reach walks through all directories below the root, depth first. It needs no memory: each
// directory has exactly one name, which is in its parent, and knows its place there. The places of
// others are kept: those that an early version wrote, or that are wrong.
type reach struct {
	src     Source
	dir     uint64
	in      Inode  // of dir
	sub     uint64 // names of dir from here on are to be visited
	visited uint64
	stray   []strayDir
}

type strayDir struct{ dir, sub uint64 }

// reachable checks that all directories, want apart from the root, are below the root. The names of
// directories and their parents agree. So any other directory is in a cycle, or below one.
func reachable(src Source, want uint64) error {
	r := &reach{src: src}
	if err := r.enter(uint64(vfs.RootIno)); err != nil {
		return err
	}
	for {
		more, err := r.step()
		switch {
		case err != nil:
			return err
		case r.visited > want:
			return invalid("there are more than %d directories", want)
		case more:
		case r.visited < want:
			return invalid("%d directories are not below the root directory", want-r.visited)
		default:
			return nil
		}
	}
}

// enter goes to the begin of a directory.
func (r *reach) enter(dir uint64) error {
	in, found, err := r.src.Inode(dir)
	if err == nil && !found {
		err = ErrChanging
	}
	r.dir, r.sub, r.in = dir, 0, in
	return err
}

// step goes to the next directory, or back to the parent. It returns false at the end.
func (r *reach) step() (more bool, err error) {
	var sub, child uint64
	if r.in.Nlink > 2 {
		sub, child, err = r.src.NextDir(r.dir, r.sub)
	}
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
			return false, invalid("more than %d nested directories do not know their names", maxStray)
		}
		r.stray = append(r.stray, strayDir{child, sub})
	}
	return true, nil
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
