package create

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
	"github.com/sealvol/sealvol/pkg/snapshot/pack"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
)

// ErrNoKey says that nobody could open the snapshot: it would have no key slot.
var ErrNoKey = errors.New("the snapshot has no key slot: give a key or a recovery recipient")

// ErrLabel says that a card cannot hold the name, the claim, the host or the tags.
var ErrLabel = errors.New("the label of the snapshot is not valid")

// Base is the snapshot that a new one builds on.
type Base struct {
	S format.ID
	// Copy: it may be of another volume, of which this one is a copy or was restored. Then all
	// content is read, as without the local snapshot of the base.
	Copy bool
	// Open opens its manifest.
	Open func(ctx context.Context, h *format.Head, sealed []byte) (*manifest.Body, error)
}

// Label is what a list of snapshots shows of one.
type Label struct {
	Name  string // given by people
	Claim string // namespace/name of a PersistentVolumeClaim
	Host  string
	Tags  map[string]string
}

// Options say what is written, and how.
type Options struct {
	Store   chunkstore.Store
	StoreID format.ID
	Format  format.Store // of the store
	Tenant  *crypto.TenantKeys
	Epoch   uint8 // of the tenant secret
	Suite   crypto.Suite

	// S is the new snapshot. Zero: a new identity. Else an earlier attempt at it may
	// have died: what that has stored is used, most of all if Base is the same, which
	// commit.FindEarlier returns.
	S format.ID
	// Fresh: S is new, so there was no attempt at it.
	Fresh bool
	// Fixed: the snapshot is S or none, even if a pruner has declared S void (commit.ErrVoid).
	Fixed bool
	Base  *Base // nil: none
	// Why says why there is no base although there may be one. "": there is none.
	Why        string
	Lineage    format.ID
	Recipients []crypto.Recipient // get slots of the snapshot's key
	// Credential opens one of these slots. It is needed if an earlier attempt has
	// stored them: without it another snapshot is made instead of S. May be nil.
	Credential crypto.Credential
	Label      Label
	Writer     string // program and version
	Who        string // for people who look at leases

	// Workers is how many files are read at once. 0: two more than the number of processors, since
	// some wait for the device.
	Workers  int
	InFlight int // packs; 0: as many as have 32 MiB
	// RecountEvery is how many snapshots come from one recount of the list to the next, at most. 0: 64.
	RecountEvery int
	// BeforeCommit is called when everything but the card is stored, such as to extend an object
	// lock. Nil: nothing.
	BeforeCommit func(ctx context.Context, h *format.Head) error
	// Progress is called about twice a second. Nil: nobody.
	Progress func(Progress)
	Log      *slog.Logger // nil: none

	// Attempts at other snapshots, of this call, and for which each wrote packs.
	predecessors []format.ID
	written      map[format.ID]format.ID
}

// Progress tells how far a snapshot is.
type Progress struct {
	Files      uint64 // visited
	FilesTotal uint64 // of the volume; 0: only changes are visited
	Read       uint64 // bytes of content
	ReadTotal  uint64 // 0: unknown
	Stored     uint64 // bytes given to the store
	Kept       uint64 // bytes of content found stored already
	Committing bool
}

// Report tells what a snapshot is and what it took.
type Report struct {
	S       format.ID
	Handle  format.Handle
	Created time.Time // of the state
	Base    format.ID // zero: none
	// Full says why everything was read. "": only changes were read.
	Full    string
	Files   uint64
	Dirs    uint64
	Logical uint64 // bytes of all files
	Read    uint64 // bytes of content that were read
	Kept    uint64 // of these, bytes that were stored already
	Stored  pack.Stored
	Found   pack.Stored // by earlier attempts at this snapshot, which is not in Stored
	Nodes   int         // of the map that were written
	Content [32]byte
	Packs   uint32 // in the list
	Recount bool
	Took    time.Duration
}

const maxBeginnings = 3

// Run writes a snapshot of state to, and returns when it is whole. from is the state of the base;
// nil: all content is read. After an error the snapshot does not exist; what was stored is found by
// the next attempt, or by a pruner.
func Run(ctx context.Context, id pinned.Identity, from, to *pinned.State, o Options) (*Report, error) {
	if len(o.Recipients) == 0 {
		return nil, ErrNoKey
	}
	if err := manifest.CheckLabel(o.Label.Name, o.Label.Claim, o.Label.Host, o.Label.Tags); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLabel, err)
	}
	if o.S == (format.ID{}) {
		o.S, o.Fresh = format.NewID(), true
	}
	start := time.Now()
	for n := 1; ; n++ {
		j, err := newJob(ctx, id, from, to, &o)
		if err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", o.S, err)
		}
		r, err := j.run(ctx)
		if err == nil {
			r.Took = time.Since(start)
			return r, nil
		}
		if n == maxBeginnings || o.Fixed || !errors.Is(err, commit.ErrVoid) && !errors.Is(err, commit.ErrTaken) {
			return nil, fmt.Errorf("snapshot %s: %w", o.S, err)
		}
		if _, _, whole := commit.Whole(ctx, o.Store, o.S); !errors.Is(whole, commit.ErrNoBase) {
			return nil, fmt.Errorf("snapshot %s: %w", o.S, errors.Join(err, whole))
		}
		// A lease had expired, or an earlier attempt cannot be finished: another
		// identity, with the packs of this one.
		j.warn("the snapshot cannot be finished, another one is made", err)
		o = j.beginAgain()
	}
}
