package fusefs

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

const refShards = 64

// refs counts the kernel's references to each inode (its "nlookup": the number of answers that
// contained the inode, minus those that the kernel has forgotten).
//
// An inode without names exists until its count is zero. So there are two races to prevent:
// FS.Forget could run late, after the kernel has got the inode again, or the kernel could get an
// inode that FS.Forget has just freed. To prevent the first, FS.Forget is called with the shard
// locked. To prevent the second, the first goroutine that holds an inode checks whether any Forget
// began since it started its search (epoch). If so, it asks the FS whether the inode still exists.
type refs struct {
	fs     vfs.FS
	epoch  atomic.Uint64 // the number of FS.Forget calls that have begun
	shards [refShards]refShard
}

type refShard struct {
	mu     sync.Mutex
	counts map[vfs.Ino]uint64 // guarded by mu
	_      [40]byte           // one cache line per shard
}

func newRefs(fs vfs.FS) *refs {
	r := &refs{fs: fs}
	for i := range r.shards {
		r.shards[i].counts = make(map[vfs.Ino]uint64)
	}
	return r
}

func (r *refs) shard(ino vfs.Ino) *refShard { return &r.shards[uint64(ino)%refShards] }

// begin is called before the search for an inode that will be held.
func (r *refs) begin() uint64 { return r.epoch.Load() }

// hold counts one more reference to ino, which the FS returned after begin. If ino has been freed
// meanwhile, it counts nothing and returns false.
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

// drop removes n references. If they were the last ones, the FS forgets ino, and drop returns true.
func (r *refs) drop(ino vfs.Ino, n uint64) bool {
	s := r.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	have, ok := s.counts[ino]
	if !ok {
		return false // the kernel knows it from a previous server
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

// all returns the inodes that the kernel knows.
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

// dropAll forgets all inodes, at the end of the mount.
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

// suidSet contains the regular files that are suid or sgid according to the kernel. The kernel
// leaves the clearing of these bits to the server (FUSE_HANDLE_KILLPRIV_V2), and does not fetch the
// mode again after a write. The set is nearly always empty.
type suidSet struct {
	n    atomic.Int64 // len(inos), readable without the lock
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
