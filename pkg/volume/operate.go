package volume

import (
	"cmp"
	"slices"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// operate waits for reservation c and calls fn, which takes the inodes and locks that it needs
// through l, checks, and performs the operation. Everything is released when fn returns. The caller
// holds no lock that a commit or a flusher takes (see admission.reserve).
func (v *Volume) operate(c reservation, fn func(l *locks) error) error {
	if err := v.adm.reserve(c); err != nil {
		return err
	}
	defer v.adm.done(c)
	l := locks{v: v}
	defer l.release()
	return fn(&l)
}

// locks are the inodes and locks that an operation holds. It takes them in the order of the package
// comment: references to inodes, then namespace.mu, then inode.mu of all inodes that change.
type locks struct {
	v      *Volume
	refs   [maxLocks]*inode
	locked [maxLocks]*inode // ascending
	ns     bool
}

// maxLocks is the most inodes that an operation changes: a rename changes two inodes and two
// directories.
const maxLocks = 4

// inode returns an inode, with a reference until release.
func (l *locks) inode(ino vfs.Ino) (*inode, error) { return l.keep(l.v.table.inode(ino)) }

// dir is inode for directories.
func (l *locks) dir(ino vfs.Ino) (*inode, error) { return l.keep(l.v.table.dir(ino)) }

func (l *locks) keep(in *inode, err error) (*inode, error) {
	if err == nil {
		l.refs[slices.Index(l.refs[:], nil)] = in
	}
	return in, err
}

// names takes namespace.mu, so that no name changes until release.
func (l *locks) names() {
	l.v.names.mu.Lock()
	l.ns = true
}

// lock locks inodes. They may be nil or repeated. It must be called only once.
func (l *locks) lock(ins ...*inode) {
	n := 0
	for _, in := range ins {
		if in != nil && !slices.Contains(l.locked[:n], in) {
			l.locked[n] = in
			n++
		}
	}
	slices.SortFunc(l.locked[:n], func(a, b *inode) int { return cmp.Compare(a.ino, b.ino) })
	for _, in := range l.locked[:n] {
		in.mu.Lock()
	}
}

func (l *locks) release() {
	for _, in := range l.locked {
		if in != nil {
			in.mu.Unlock()
		}
	}
	if l.ns {
		l.v.names.mu.Unlock()
	}
	for _, in := range l.refs {
		if in != nil {
			l.v.table.put(in)
		}
	}
}
