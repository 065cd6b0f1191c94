package snapshot_test

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/create"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/snapshot/verify"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
)

const resumePackBytes = 1 << 20

// resumed is a local snapshot that writers store that die.
type resumed struct {
	*rig
	id    pinned.Identity
	state *pinned.State
	suite crypto.Suite
	name  format.ID
}

func newResumed(t *testing.T) *resumed {
	r := &resumed{rig: newRig(t), suite: 1, name: format.ID{0xcc}}
	rng := rand.NewChaCha8([32]byte{1})
	for name, n := range map[string]int{"big": 5 << 20, "other": 2 << 20, "small": 5000, "text": 300_000} {
		data := make([]byte, n)
		_, _ = rng.Read(data)
		if name == "text" {
			for i := range data {
				data[i] = 'a' + data[i]%4
			}
		}
		r.write(name, data, 0)
	}
	_, err := r.v.CreateSnapshot("one")
	r.ok(err)
	src, err := pinned.Open(r.dev, pinned.Options{Credential: r.cred})
	r.ok(err)
	t.Cleanup(src.Close)
	r.id = src.Identity()
	r.state, err = src.Snapshot("one")
	r.ok(err)
	return r
}

// empty gives the rig a new store.
func (r *resumed) empty() {
	var err error
	r.store, _, err = snapstore.Create(r.t.Context(), chunkstore.NewMemory(), snapstore.Options{PackBytes: resumePackBytes})
	r.ok(err)
}

// attempt is a process that stores the snapshot, and dies before its n-th change
// of the store.
func (r *resumed) attempt(n int64, c crypto.Credential) (*create.Report, *mortal, error) {
	m := &mortal{Store: r.store.Objects()}
	m.left.Store(n)
	rep, err := create.Run(r.t.Context(), r.id, nil, r.state, create.Options{Store: m, StoreID: r.store.ID(), Format: r.store.Description(), Tenant: r.tenant.Keys,
		Suite: r.suite, S: r.name, Recipients: []crypto.Recipient{r.kek}, Credential: c, Writer: "test", Who: "test", InFlight: 1})
	return rep, m, err
}

func (r *resumed) verify(s format.ID) {
	r.t.Helper()
	_, err := verify.Run(r.t.Context(), r.read(s).VerifySource(), verify.Options{Level: verify.Data, Problem: func(p verify.Problem) { r.t.Error(p) }})
	r.ok(err)
}

// TestCreateResume: the process that stores a snapshot dies before each change of
// the store; the next one finishes it, and stores nothing that was stored.
func TestCreateResume(t *testing.T) {
	r := newResumed(t)
	r.empty()
	whole, m, err := r.attempt(1<<30, r.cred)
	r.ok(err)
	all, ops := m.bytes.Load(), 1<<30-m.left.Load()
	if ops < 12 {
		t.Fatalf("%d operations", ops)
	}
	for n := range ops {
		r.empty()
		_, first, err := r.attempt(n, r.cred)
		if n < ops-1 && !errors.Is(err, errKilled) {
			t.Fatalf("%d: it did not die: %v", n, err)
		}
		r.suite = 3 - r.suite // the program has another default now
		rep, second, err := r.attempt(1<<30, r.cred)
		if err != nil {
			t.Fatalf("%d: the successor: %v", n, err)
		}
		if rep.S != r.name || rep.Content != whole.Content || rep.Files != whole.Files || rep.Logical != whole.Logical {
			t.Errorf("%d: %+v, want %+v", n, rep, whole)
		}
		// One pack was being uploaded, and two were being filled.
		if sum := first.bytes.Load() + second.bytes.Load(); sum > all+3*resumePackBytes {
			t.Errorf("%d: %d bytes of packs stored in all, of %d", n, sum, all)
		}
		if n > 8 && n < ops-5 && rep.Found.Packs < int(n)-4 {
			t.Errorf("%d: %+v was found", n, rep.Found)
		}
		r.verify(rep.S)
		if leases := r.count(format.LeasePrefix); leases != 0 {
			t.Errorf("%d: %d leases stay", n, leases)
		}
	}
}

func (r *rig) count(prefix string) (n int) {
	for _, err := range r.store.Objects().List(r.t.Context(), prefix, "") {
		r.ok(err)
		n++
	}
	return n
}

// TestCreateResumeElsewhere: a snapshot that can never be finished is made under
// another identity, of the same packs: since it is void, or since nobody has the
// key that its keys need.
func TestCreateResumeElsewhere(t *testing.T) {
	r := newResumed(t)
	r.empty()
	whole, m, err := r.attempt(1<<30, r.cred)
	r.ok(err)
	ops := 1<<30 - m.left.Load()
	for name, c := range map[string]struct {
		n    int64
		void bool
		cred crypto.Credential
	}{"void": {ops - 4, true, r.cred}, "without the key": {ops - 3, false, nil}} {
		r.empty()
		if _, _, err := r.attempt(c.n, r.cred); !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		packs := r.count(format.PackPrefix)
		if c.void {
			_, err := r.store.Objects().Put(t.Context(), format.SnapKey(r.name, format.CardPart), []byte(format.VoidCard))
			r.ok(err)
		}
		rep, _, err := r.attempt(1<<30, c.cred)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if rep.S == r.name || rep.Content != whole.Content || rep.Stored.Packs != 0 || rep.Found.Packs != packs {
			t.Errorf("%s: %+v", name, rep)
		}
		r.verify(rep.S)
	}
}
