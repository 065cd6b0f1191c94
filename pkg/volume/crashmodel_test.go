package volume

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// modelFile is content; directories are nil.
type modelState struct {
	files map[string][]byte // path → content; contents are never changed in place
}

func (s modelState) clone() modelState { return modelState{files: maps.Clone(s.files)} }

type crashRun struct {
	v      *Volume
	rng    *rand.Rand
	states []modelState // after each operation
	made   int          // of states, up to the last that an operation which returned no error has left
	synced int          // states index that is known to be durable
	inos   map[string]vfs.Ino
	dirs   []string
	trace  []string // what was done, for people
	single bool     // no copies: nothing is shared

	// Of one of several runs on a volume (stress_test.go).
	base  vfs.Ino        // directory that is its own; 0: the root
	clock *atomic.Uint64 // orders operations of all runs; nil: one run
	begun []uint64       // clock when the operation of a state began
	ended []uint64       // and ended; 0: it never did
}

func (r *crashRun) root() vfs.Ino {
	if r.base != 0 {
		return r.base
	}
	return vfs.RootIno
}

func (r *crashRun) note(format string, args ...any) {
	r.trace = append(r.trace, fmt.Sprintf("%d: ", len(r.states)-1)+fmt.Sprintf(format, args...))
}

var crashReq = &vfs.Req{UID: 1, GID: 2}

func (r *crashRun) state() modelState { return r.states[len(r.states)-1] }

func (r *crashRun) pick() (string, bool) {
	names := slices.Sorted(maps.Keys(r.state().files))
	names = slices.DeleteFunc(names, func(n string) bool { return r.state().files[n] == nil })
	if len(names) == 0 {
		return "", false
	}
	return names[r.rng.IntN(len(names))], true
}

func (r *crashRun) split(path string) (vfs.Ino, string) {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return r.inos[path[:i]], path[i+1:]
		}
	}
	return r.root(), path
}

func (r *crashRun) newPath() string {
	name := fmt.Sprintf("n%d", r.rng.IntN(40))
	if d := r.rng.IntN(len(r.dirs) + 1); d < len(r.dirs) {
		return r.dirs[d] + "/" + name
	}
	return name
}

// step makes one operation. It returns an error when the device is gone.
func (r *crashRun) step() error {
	switch k := r.rng.IntN(100); {
	case k < 25:
		return r.create()
	case k < 34 && !r.single:
		return r.copyRange()
	case k < 60:
		return r.write()
	case k < 68:
		return r.truncate()
	case k < 72:
		return r.fallocate()
	case k < 80:
		return r.unlink()
	case k < 88:
		return r.rename()
	case k < 91:
		return r.mkdir()
	case k < 98: // fsync of any file
		p, ok := r.pick()
		if !ok {
			return nil
		}
		return r.fsync(p)
	default:
		return r.commit()
	}
}

// do makes an operation that leads to the state next. What is in progress when the
// power goes may or may not have happened, so that state is known before the call.
func (r *crashRun) do(next modelState, fn func() error) error {
	r.states = append(r.states, next)
	if r.clock != nil {
		r.begun, r.ended = append(r.begun, r.clock.Add(1)), append(r.ended, 0)
	}
	err := fn()
	if err != nil {
		return err
	}
	r.made = len(r.states)
	if r.clock != nil {
		r.ended[len(r.ended)-1] = r.clock.Add(1)
	}
	return nil
}

// create makes an empty file.
func (r *crashRun) create() error {
	next := r.state().clone()
	p := r.newPath()
	if _, ok := next.files[p]; ok {
		return nil
	}
	next.files[p] = []byte{}
	return r.do(next, func() error {
		d, n := r.split(p)
		a, err := r.v.Mknod(crashReq, d, n, 0o644, 0)
		if err != nil {
			return err
		}
		r.inos[p] = a.Ino
		r.note("create %s inode %d", p, a.Ino)
		return nil
	})
}

// write writes to a file, and perhaps beyond its end.
func (r *crashRun) write() error {
	next := r.state().clone()
	p, ok := r.pick()
	if !ok {
		return nil
	}
	size := 1 + r.rng.IntN(9000)
	if r.rng.IntN(3) == 0 {
		size = 1 + size%300 // kept in the tree
	}
	if r.rng.IntN(6) == 0 {
		size = 60000 + r.rng.IntN(200000)
	}
	off := 0
	if n := len(next.files[p]); n > 0 {
		off = r.rng.IntN(n + 1)
	}
	switch r.rng.IntN(4) {
	case 0:
		off += r.rng.IntN(20000)
	case 1:
		off = off / bufferBytes * bufferBytes
	}
	if off+size > 700000 {
		return nil
	}
	data := bytes.Repeat([]byte{byte(1 + r.rng.IntN(255))}, size)
	for i := 0; i < size; i += 97 {
		data[i] = byte(i + len(r.states))
	}
	old := next.files[p]
	c := make([]byte, max(len(old), off+size))
	copy(c, old)
	copy(c[off:], data)
	next.files[p] = c
	return r.do(next, func() error {
		r.note("write %s inode %d: %d+%d", p, r.inos[p], off, len(data))
		_, err := r.v.Write(crashReq, r.inos[p], uint64(off), data, false)
		return err
	})
}

// truncate sets the size of a file.
func (r *crashRun) truncate() error {
	next := r.state().clone()
	p, ok := r.pick()
	if !ok {
		return nil
	}
	size := r.rng.IntN(len(next.files[p]) + 5000)
	c := make([]byte, size)
	copy(c, next.files[p])
	next.files[p] = c
	return r.do(next, func() error {
		s := uint64(size)
		r.note("truncate %s inode %d: %d", p, r.inos[p], size)
		_, err := r.v.SetAttr(crashReq, r.inos[p], &vfs.SetAttr{Size: &s})
		return err
	})
}

// fallocate punches, zeroes or reserves a range.
func (r *crashRun) fallocate() error {
	next := r.state().clone()
	p, ok := r.pick()
	if !ok || len(next.files[p]) == 0 {
		return nil
	}
	off := r.rng.IntN(len(next.files[p]))
	n := 1 + r.rng.IntN(30000)
	mode := []uint32{vfs.FallocPunchHole | vfs.FallocKeepSize, vfs.FallocZeroRange, vfs.FallocKeepSize, 0}[r.rng.IntN(4)]
	c := slices.Clone(next.files[p])
	if mode&vfs.FallocKeepSize == 0 && off+n > len(c) {
		c = append(c, make([]byte, off+n-len(c))...)
	}
	if mode&(vfs.FallocPunchHole|vfs.FallocZeroRange) != 0 {
		clear(c[off:min(len(c), off+n)])
	}
	next.files[p] = c
	return r.do(next, func() error {
		r.note("fallocate %d %s inode %d: %d+%d", mode, p, r.inos[p], off, n)
		return r.v.Fallocate(crashReq, r.inos[p], mode, uint64(off), uint64(n))
	})
}

// unlink removes a file.
func (r *crashRun) unlink() error {
	next := r.state().clone()
	p, ok := r.pick()
	if !ok {
		return nil
	}
	delete(next.files, p)
	return r.do(next, func() error {
		d, n := r.split(p)
		if err := r.v.Unlink(crashReq, d, n); err != nil {
			return err
		}
		r.v.Forget(r.inos[p])
		return nil
	})
}

// rename moves a file over whatever is there.
func (r *crashRun) rename() error {
	next := r.state().clone()
	p, ok := r.pick()
	q := r.newPath()
	if !ok || p == q {
		return nil
	}
	old, exists := next.files[q]
	if exists && old == nil {
		return nil
	}
	next.files[q] = next.files[p]
	delete(next.files, p)
	return r.do(next, func() error {
		d, n := r.split(p)
		e, m := r.split(q)
		r.note("rename %s inode %d to %s", p, r.inos[p], q)
		if err := r.v.Rename(crashReq, d, n, e, m, 0); err != nil {
			return err
		}
		if exists {
			r.v.Forget(r.inos[q])
		}
		r.inos[q] = r.inos[p]
		return nil
	})
}

// mkdir makes a directory.
func (r *crashRun) mkdir() error {
	next := r.state().clone()
	if len(r.dirs) > 5 {
		return nil
	}
	p := fmt.Sprintf("d%d", len(r.dirs))
	next.files[p] = nil
	return r.do(next, func() error {
		a, err := r.v.Mkdir(crashReq, r.root(), p, 0o755)
		if err != nil {
			return err
		}
		r.inos[p] = a.Ino
		r.dirs = append(r.dirs, p)
		return nil
	})
}

// commit makes all states durable.
func (r *crashRun) commit() error {
	n := len(r.states) - 1
	if err := r.v.Sync(vfs.RootIno); err != nil {
		return err
	}
	r.synced = n
	r.note("committed %d", n)
	return nil
}

// copyRange copies a range, as often as not a whole file, a step at a time: each
// is an operation of its own, and stays when a later one fails. How far one goes is
// known only when it is made, so a step that fails leaves the state before it: it
// was not made, or nobody makes it durable.
func (r *crashRun) copyRange() error {
	p, ok := r.pick()
	q, _ := r.pick()
	if !ok || len(r.state().files[p]) == 0 {
		return nil
	}
	from, to, n := 0, 0, len(r.state().files[p])
	if r.rng.IntN(2) == 0 {
		from = r.rng.IntN(n)
		to = r.rng.IntN(len(r.state().files[q]) + 9000)
		if r.rng.IntN(3) > 0 {
			from, to = from/pageBytes*pageBytes, to/pageBytes*pageBytes
		}
		n = 1 + r.rng.IntN(n-from)
	}
	if p == q && from < to+n && to < from+n || to+n > 700000 {
		return nil
	}
	c := copier{v: r.v, req: crashReq, src: r.inos[p], dst: r.inos[q]}
	for n > 0 {
		begun := uint64(0)
		if r.clock != nil {
			begun = r.clock.Add(1)
		}
		r.note("copy %s inode %d: %d+%d to %s inode %d: %d", p, c.src, from, n, q, c.dst, to)
		done, err := c.step(uint64(from), uint64(to), uint64(n))
		if err == nil && (done == 0 || done > uint64(n)) {
			err = fmt.Errorf("copied %d bytes of %d", done, n)
		}
		next := r.state().clone()
		if err == nil {
			b := make([]byte, max(len(next.files[q]), to+int(done)))
			copy(b, next.files[q])
			copy(b[to:], next.files[p][from:from+int(done)])
			next.files[q] = b
		}
		r.states = append(r.states, next)
		if r.clock != nil {
			ended := uint64(0)
			if err == nil {
				ended = r.clock.Add(1)
			}
			r.begun, r.ended = append(r.begun, begun), append(r.ended, ended)
		}
		if err != nil {
			return err
		}
		r.made = len(r.states)
		from, to, n = from+int(done), to+int(done), n-int(done)
	}
	if r.rng.IntN(4) == 0 { // and at once an fsync of the copy
		return r.fsync(q)
	}
	return nil
}

func (r *crashRun) fsync(path string) error {
	n := len(r.states) - 1
	if err := r.v.Sync(r.inos[path]); err != nil {
		return err
	}
	r.synced = n
	return nil
}
