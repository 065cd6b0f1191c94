package volume

import (
	"cmp"
	"slices"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// operate admits an operation of cost c and calls fn, which takes what it needs by the
// locks that it is given, checks, and performs. All of it is given back when fn returns.
// The caller holds no lock that a commit or a flusher takes (see admit).
func (v *Volume) operate(c reservation, fn func(l *locks) error) error {
	if err := v.adm.reserve(c); err != nil {
		return err
	}
	defer v.adm.done(c)
	l := locks{v: v}
	defer l.release()
	return fn(&l)
}

// locks are the inodes and locks that an operation holds. It takes them in the order of
// the package comment: inodes have references first, then namespace.mu, then inode.mu of all that change.
type locks struct {
	v      *Volume
	refs   [maxLocks]*inode
	locked [maxLocks]*inode // ascending
	ns     bool
}

// maxLocks is how many inodes an operation changes at most: a rename, of an inode, another one
// and two directories.
const maxLocks = 4

// inode returns an inode, which is kept until release.
func (l *locks) inode(ino vfs.Ino) (*inode, error) { return l.keep(l.v.table.inode(ino)) }

// dir is inode for what must be a directory.
func (l *locks) dir(ino vfs.Ino) (*inode, error) { return l.keep(l.v.table.dir(ino)) }

func (l *locks) keep(in *inode, err error) (*inode, error) {
	if err == nil {
		l.refs[slices.Index(l.refs[:], nil)] = in
	}
	return in, err
}

// names takes namespace.mu: no name changes until release.
func (l *locks) names() {
	l.v.names.mu.Lock()
	l.ns = true
}

// lock locks inodes, nil and repeated ones allowed. It is called once.
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
