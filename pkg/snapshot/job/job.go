package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter/handover"
	"github.com/sealvol/sealvol/pkg/mounter/worker"
	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/create"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/lock"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
)

// Params are what the caller says about a snapshot. None of it is secret from the worker.
type Params struct {
	// Base is the stored snapshot to build on, "" for none. The local snapshot of it may be gone.
	Base  string            `json:"base,omitempty"`
	Name  string            `json:"name,omitempty"`
	Claim string            `json:"claim,omitempty"` // namespace/name
	Host  string            `json:"host,omitempty"`
	Tags  map[string]string `json:"tags,omitempty"`
	// Writer is the program and its version.
	Writer string `json:"writer,omitempty"`
}

// Result is what the caller gets when the snapshot is whole.
type Result struct {
	Handle  string    `json:"handle"`
	Created time.Time `json:"created"` // of the state
	Base    string    `json:"base,omitempty"`
	Full    string    `json:"full,omitempty"` // why everything was read
	Files   uint64    `json:"files"`
	Dirs    uint64    `json:"directories"`
	Logical uint64    `json:"logicalBytes"`
	Read    uint64    `json:"readBytes"`
	Stored  int64     `json:"storedBytes"`
	Content string    `json:"content"` // hash of the content, in hexadecimal
}

// Run is a worker.Job.
func Run(ctx context.Context, e worker.Env) error {
	err := run(ctx, &e)
	switch {
	case err == nil, errors.Is(err, commit.ErrVoid):
		// A void identity is the caller's to replace; the local snapshot can still be read.
		return err
	case errors.Is(err, create.ErrNoKey), errors.Is(err, create.ErrLabel), errors.Is(err, commit.ErrTaken), errors.Is(err, errParams), errors.Is(err, errOtherState), errors.Is(err, pinned.ErrDeleted):
		return worker.Final(err)
	}
	return err
}

// pageCache is for pages of the metadata of the volume: pkg/snapshot/create has the sum.
const pageCache = 8 << 20

var errParams = errors.New("invalid parameters of a snapshot job")

func run(ctx context.Context, e *worker.Env) error {
	var p Params
	if err := json.Unmarshal(e.Params, &p); err != nil {
		return fmt.Errorf("%w: %w", errParams, err)
	}
	s, err := format.ParseID(e.ID)
	if err != nil {
		return fmt.Errorf("%w: %w", errParams, err)
	}
	store, err := snapstore.Open(ctx, e.Store)
	if err != nil {
		return err
	}
	t := e.Secrets.Tenants[len(e.Secrets.Tenants)-1]
	tenant, err := crypto.DeriveTenantKeys(t.Secret)
	if err != nil {
		return err
	}
	defer tenant.Erase()
	o, err := options(ctx, e, &p, store, s)
	if err != nil {
		return err
	}
	o.Tenant, o.Epoch = tenant, t.Epoch
	v, err := pinned.Open(e.Device, pinned.Options{Keys: e.Volume.Keys, Memory: pageCache})
	if err != nil {
		return err
	}
	defer v.Close()
	to, err := v.At(e.Volume.Source)
	if err != nil {
		return err
	}
	if x, err := again(ctx, e, store, s, to); x != nil || err != nil {
		if err == nil {
			err = send(e, x)
		}
		return err
	}
	var from *pinned.State
	if e.Volume.Base != nil && o.Base != nil && e.BaseID == o.Base.S.String() {
		if from, err = v.At(*e.Volume.Base); err != nil {
			return err
		}
	}
	o.Suite = v.Identity().Suite
	r, err := create.Run(ctx, v.Identity(), from, to, o)
	if err != nil {
		return err
	}
	return result(e, r)
}

func result(e *worker.Env, r *create.Report) error {
	x := Result{Handle: r.Handle.String(), Created: r.Created, Full: r.Full, Files: r.Files, Dirs: r.Dirs, Logical: r.Logical, Read: r.Read,
		Stored: r.Stored.Bytes, Content: fmt.Sprintf("%x", r.Content)}
	if r.Base != (format.ID{}) {
		x.Base = r.Base.String()
	}
	return send(e, &x)
}

func send(e *worker.Env, r *Result) error {
	b, err := json.Marshal(r)
	if err == nil {
		e.Result(b)
	}
	return err
}

// options says what create writes, but for keys of the tenant.
func options(ctx context.Context, e *worker.Env, p *Params, store *snapstore.Store, s format.ID) (create.Options, error) {
	o := create.Options{Store: store.Objects(), StoreID: store.ID(), Format: store.Description(), S: s, Fixed: true, Writer: p.Writer, Who: p.Host,
		Label: create.Label{Name: p.Name, Claim: p.Claim, Host: p.Host, Tags: p.Tags}, Recipients: recipients(e.Secrets), Log: e.Log, Progress: progress(e)}
	earlier, err := commit.FindEarlier(ctx, store.Objects(), s)
	if err != nil {
		return o, err
	}
	if len(e.Secrets.KEKs) > 0 {
		o.Credential = crypto.SecretCredential(e.Secrets.KEKs[0])
	}
	base := earlier.Base
	if base == (format.ID{}) && p.Base != "" {
		if base, err = format.ParseID(p.Base); err != nil {
			return o, fmt.Errorf("%w: base: %w", errParams, err)
		}
	}
	if base != (format.ID{}) {
		o.Base = &create.Base{S: base, Open: openBase(e, store)}
	}
	o.BeforeCommit = func(ctx context.Context, h *format.Head) error {
		_, err := lock.Extend(ctx, store.Objects(), h, lock.Options{}) // nothing, if the store has no lock
		return err
	}
	return o, nil
}

func progress(e *worker.Env) func(create.Progress) {
	return func(p create.Progress) {
		step := "data"
		if p.Committing {
			step = "commit"
		}
		e.Progress(workerctl.Progress{Step: step, BytesDone: int64(p.Read), BytesTotal: int64(p.ReadTotal), FilesDone: int64(p.Files), FilesTotal: int64(p.FilesTotal),
			BytesStored: int64(p.Stored), BytesReused: int64(p.Kept)})
	}
}

// recipients are the keys that get a slot.
func recipients(s *handover.Secrets) (list []crypto.Recipient) {
	for _, k := range s.KEKs {
		list = append(list, crypto.SecretCredential(k))
	}
	for _, r := range s.Recipients {
		list = append(list, r)
	}
	return list
}

// openBase opens the manifest of the base with the first key that does.
func openBase(e *worker.Env, store *snapstore.Store) func(context.Context, *format.Head, []byte) (*manifest.Body, error) {
	return func(ctx context.Context, h *format.Head, sealed []byte) (b *manifest.Body, err error) {
		err = manifest.ErrNoSlot
		for _, k := range e.Secrets.KEKs {
			if b, err = store.OpenBody(ctx, h, sealed, crypto.SecretCredential(k)); !errors.Is(err, manifest.ErrNoSlot) {
				break
			}
		}
		return b, err
	}
}
