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
	Data       bool // also decrypt and verify every segment of data
	// Anchor, if not nil, must belong to the root that is checked or to one of its predecessors.
	Anchor *header.Anchor
	// Progress is called now and then with the bytes read so far and the bytes to read.
	Progress func(done, total uint64)
}

// maxProblems is the most problems that a report lists.
const maxProblems = 1000

// Problem is one defect of a volume.
type Problem struct {
	Where string // "root slot 3", `inode 42 "/a/b" at 65536+4096`, "region 7"
	What  string
}

func (p Problem) String() string { return p.Where + ": " + p.What }

// Report is the result of Run. It describes the newest committed root. Run reads newer operations
// in the log, but does not apply them.
type Report struct {
	ID          crypto.UUID
	Clean       bool // no problem found
	Restoring   bool // the volume is being restored: its names and link counts are not checked yet
	NeedsReplay bool // the log holds operations that the next mount applies; this is not a problem
	Generation  uint64
	Problems    []Problem // at most maxProblems
	Total       int       // number of problems, including those not listed
	Notes       []Problem // facts that are worth knowing, but not wrong
	Counts      Counts
}

// Counts says how much a volume holds.
type Counts struct {
	Inodes     uint64
	Names      uint64
	Extents    uint64
	Nodes      uint64 // of all trees, without second copies
	UsedBlocks uint64 // that the root refers to, including the system area, but not FreedBlocks
	FreeBlocks uint64 // clear bits of the bitmaps
	// FreedBlocks are in the free lists. Their bits are set in the bitmaps until the next commit or
	// the one after it.
	FreedBlocks uint64
	// ReservedBlocks are free, and withheld for reserved ranges.
	ReservedBlocks uint64
}

// Run reads a whole volume and reports its defects. It writes nothing. It returns an error only if
// nothing could be checked: wrong key, not a volume, or a newer format. Damage is never an error.
//
// Memory: about two bytes for each inode, 4 KiB for each region of 128 MiB that is partly used, 32
// KiB for each region with shared blocks, and a bounded number of pages. For snapshots, see
// snapCheck.
func Run(dev device.Device, opts Options) (*Report, error) {
	c := &checker{dev: dev, opts: opts, rep: &Report{}, use: map[uint64]*regionUse{}, refused: map[uint64]bool{},
		inodes: map[uint64]*[inodesPerChunk]uint8{}, links: map[uint64]int64{}, shares: shareCheck{regions: map[uint64]*sharedRegion{}}}
	u, keys, err := header.UnlockAny(dev, opts.Credential, opts.Anchor)
	switch {
	case err == nil:
	case errors.Is(err, layout.ErrHeaderDamaged) || errors.Is(err, layout.ErrHeaderForged) || errors.Is(err, layout.ErrHeaderConflict):
		c.problem("header", "no usable copy: %v", err)
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

	mu    sync.Mutex // guards found, done and rep.Total: several goroutines check data
	found []problem
	done  uint64 // bytes
	total uint64
	data  dataCheck

	use     map[uint64]*regionUse
	shares  shareCheck
	sharing bool            // the header has the feature of shared blocks
	flags   bool            // the header has the feature of flags that users set
	refused map[uint64]bool // addresses of pages that were not read

	hash    items.Hasher
	inodes  map[uint64]*[inodesPerChunk]uint8 // see the inode bits in links.go
	links   map[uint64]int64                  // names minus link count, where the inode bits cannot hold it
	orphans []uint64
	pending []uint64 // directories that are not yet known to be reachable
	parents uint64   // sum over all names of directories minus sum over all Parents: must be 0
	in      inodeCheck

	pos positionCheck

	snap *snapCheck // nil: the volume never had a snapshot
	res  reserveCheck

	// Unreadable parts: checks that depend on them are left out.
	lostFS, lostSpace, lostLists, lostSnaps bool
}

// problem is a Problem without the path of its inode.
type problem struct {
	where string
	ino   uint64 // if not 0, where is the text after the inode
	what  string
	lost  items.InodeRange // inodes that are affected by a page that cannot be read
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
