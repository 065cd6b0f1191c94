package check

import (
	"errors"
	"fmt"
	"sync"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/header"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// Options for Run.
type Options struct {
	Credential crypto.Credential
	Data       bool // also open every segment of data
	// Anchor, if not nil, is to be that of the root that is checked, or of one that
	// it follows from.
	Anchor *header.Anchor
	// Progress is told now and then how many bytes of how many are done.
	Progress func(done, total uint64)
}

// maxProblems bounds the problems that a report lists.
const maxProblems = 1000

// Problem is one thing that is wrong with a volume.
type Problem struct {
	Where string // "root slot 3", `inode 42 "/a/b" at 65536+4096`, "region 7"
	What  string
}

func (p Problem) String() string { return p.Where + ": " + p.What }

// Report is what Run found. Everything is as of the newest committed
// root; what the log holds beyond it is only read.
type Report struct {
	ID          crypto.UUID
	Clean       bool // no problem
	NeedsReplay bool // the log holds operations, which the next mount applies; no problem
	Generation  uint64
	Problems    []Problem // at most maxProblems
	Total       int       // problems, those not listed included
	Notes       []Problem // not wrong, but worth knowing
	Counts      Counts
}

// Counts is what a volume holds.
type Counts struct {
	Inodes     uint64
	Names      uint64
	Extents    uint64
	Nodes      uint64 // of all trees, second copies not counted
	UsedBlocks uint64 // that the root refers to, system area included, but for FreedBlocks
	FreeBlocks uint64 // clear bits of the bitmaps
	// FreedBlocks are in the free lists: set in the bitmaps, and free for all but
	// the next commit or two.
	FreedBlocks uint64
	// ReservedBlocks are free, and kept for ranges that are reserved.
	ReservedBlocks uint64
}

// Run reads all of a volume and reports what is wrong with it. It writes
// nothing. An error says that nothing could be checked (wrong key, not a
// volume, a newer format); damage is never an error.
//
// Memory: about two bytes for each inode, 4 KiB for each region of 128 MiB that
// is used in part, 32 KiB for each one with shared blocks, and a bounded number
// of pages. With snapshots also what snapCheck says.
func Run(dev device.Device, opts Options) (*Report, error) {
	c := &checker{dev: dev, opts: opts, rep: &Report{}, use: map[uint64]*regionUse{}, refused: map[uint64]bool{},
		inodes: map[uint64]*[inodesPerChunk]uint8{}, links: map[uint64]int64{}, shares: shareCheck{regions: map[uint64]*sharedRegion{}}}
	u, keys, err := header.Unlock(dev, opts.Credential, opts.Anchor)
	switch {
	case err == nil:
	case errors.Is(err, layout.ErrHeaderDamaged) || errors.Is(err, layout.ErrHeaderForged) || errors.Is(err, layout.ErrHeaderConflict):
		c.problem("header", "no copy can be used: %v", err)
		return c.finish(), nil
	default:
		return nil, err
	}
	defer crypto.EraseEpochs(u.Epochs)
	defer keys.Erase()
	c.store = &txn.Store{Dev: dev, Keys: keys}
	c.rep.ID = u.ID
	ok, err := c.checkRoots(u)
	if err != nil {
		return nil, err
	}
	c.checkSecondHeader(u)
	if !ok {
		return c.finish(), nil
	}
	c.checkLog()
	c.checkTrees()
	c.progress(c.total)
	return c.finish(), nil
}

// checker is the state of one Run.
type checker struct {
	dev   device.Device
	opts  Options
	store *txn.Store
	root  *layout.Root
	rep   *Report

	mu    sync.Mutex // guards found, done and rep.Total: data is checked by several goroutines
	found []problem
	done  uint64 // bytes
	total uint64
	data  dataCheck

	use     map[uint64]*regionUse
	shares  shareCheck
	sharing bool            // the header says that files may share blocks
	flags   bool            // it says that inodes may have flags that users set
	refused map[uint64]bool // addresses of pages that were not followed

	hash    items.Hasher
	inodes  map[uint64]*[inodesPerChunk]uint8 // see the inode bits below
	links   map[uint64]int64                  // names less link count, where it does not fit there
	orphans []uint64
	pending []uint64 // directories whose parent was not known to be reachable
	parents uint64   // sum over all names of directories less sum over all Parents: 0
	in      inodeCheck

	snap *snapCheck // nil: the volume never had a snapshot
	res  reserveCheck

	// Parts could not be read: what follows from them can not be told.
	lostFS, lostSpace, lostLists, lostSnaps bool
}

// problem is a Problem whose path is not looked up yet.
type problem struct {
	where string
	ino   uint64 // if not 0, where is what follows the inode
	what  string
	lost  items.InodeRange // inodes of which something can not be read
}

func (c *checker) add(p problem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rep.Total++; len(c.found) < maxProblems {
		c.found = append(c.found, p)
	}
}

func (c *checker) problem(where, format string, args ...any) {
	c.add(problem{where: where, what: fmt.Sprintf(format, args...)})
}

func (c *checker) inodeProblem(ino uint64, at, format string, args ...any) {
	c.add(problem{where: at, ino: ino, what: fmt.Sprintf(format, args...)})
}

func (c *checker) note(where, format string, args ...any) {
	c.rep.Notes = append(c.rep.Notes, Problem{where, fmt.Sprintf(format, args...)})
}

func (c *checker) progress(bytes uint64) {
	if c.opts.Progress == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = min(c.done+bytes, c.total)
	c.opts.Progress(c.done, c.total)
}

func (c *checker) finish() *Report {
	names := c.findNames()
	for _, p := range c.found {
		where := p.where
		if p.ino != 0 {
			where = fmt.Sprintf("inode %d%s%s", p.ino, items.QuotedPath(names.Path(p.ino)), p.where)
		}
		c.rep.Problems = append(c.rep.Problems, Problem{where, p.what + names.Listed(p.lost)})
	}
	c.rep.Clean = c.rep.Total == 0
	return c.rep
}
