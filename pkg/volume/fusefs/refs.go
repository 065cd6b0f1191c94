package fusefs

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

const refShards = 64

// refs counts how often the kernel knows each inode (its "nlookup": one for
// each answer that named the inode, less those forgotten).
//
// An inode without names lives until the count is zero, so two things must not
// happen: that FS.Forget comes late, after the kernel got the inode again, and that
// the kernel gets an inode that FS.Forget has just freed. Against the first,
// FS.Forget is called with the shard locked. Against the second, who found an
// inode and is the first to hold it looks whether any Forget began since he
// started to search (epoch), and if so asks whether the inode still exists.
type refs struct {
	fs     vfs.FS
	epoch  atomic.Uint64 // how many FS.Forget have begun
	shards [refShards]refShard
}

type refShard struct {
	mu     sync.Mutex
	counts map[vfs.Ino]uint64 // guarded by mu
	_      [40]byte           // a cache line each
}

func newRefs(fs vfs.FS) *refs {
	r := &refs{fs: fs}
	for i := range r.shards {
		r.shards[i].counts = make(map[vfs.Ino]uint64)
	}
	return r
}

func (r *refs) shard(ino vfs.Ino) *refShard { return &r.shards[uint64(ino)%refShards] }

// begin is called before asking the FS for an inode that will be held.
func (r *refs) begin() uint64 { return r.epoch.Load() }

// hold counts one more reference to ino, which the FS named after begin. It
// returns false, and counts nothing, if ino has been freed meanwhile.
func (r *refs) hold(ino vfs.Ino, begun uint64) bool {
	s := r.shard(ino)
	s.mu.Lock()
	s.counts[ino]++
	first := s.counts[ino] == 1
	s.mu.Unlock()
	if !first || r.epoch.Load() == begun {
		return true
	}
	if _, err := r.fs.GetAttr(ino); errors.Is(err, vfs.ErrStale) {
		r.drop(ino, 1)
		return false
	}
	return true
}

// drop takes n references away and lets the FS forget ino if those were the
// last. It reports whether they were.
func (r *refs) drop(ino vfs.Ino, n uint64) bool {
	s := r.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	have, ok := s.counts[ino]
	if !ok {
		return false // the kernel knew it from a server before us
	}
	if have > n {
		s.counts[ino] = have - n
		return false
	}
	delete(s.counts, ino)
	r.epoch.Add(1)
	r.fs.Forget(ino)
	return true
}

// all is the inodes that the kernel knows.
func (r *refs) all() (list []vfs.Ino) {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for id := range s.counts {
			list = append(list, id)
		}
		s.mu.Unlock()
	}
	return list
}

// dropAll forgets everything: the mount has ended.
func (r *refs) dropAll() {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for ino := range s.counts {
			r.fs.Forget(ino)
		}
		clear(s.counts)
		s.mu.Unlock()
	}
}

// suidSet is the regular files that the kernel knows to be suid or sgid. The
// kernel leaves clearing these bits to us (FUSE_HANDLE_KILLPRIV_V2) and after a
// write does not look at the mode again. Nearly always empty.
type suidSet struct {
	n    atomic.Int64 // len(inos), to ask without the lock
	mu   sync.Mutex
	inos map[vfs.Ino]struct{} // guarded by mu
}

func (s *suidSet) add(ino vfs.Ino) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inos == nil {
		s.inos = make(map[vfs.Ino]struct{})
	}
	s.inos[ino] = struct{}{}
	s.n.Store(int64(len(s.inos)))
}

// remove reports whether ino was in the set.
func (s *suidSet) remove(ino vfs.Ino) bool {
	if s.n.Load() == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.inos[ino]
	delete(s.inos, ino)
	s.n.Store(int64(len(s.inos)))
	return ok
}
