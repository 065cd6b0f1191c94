package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/snapshot/create"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
)

// snapshotCreate is the command for both kinds of snapshots.
type snapshotCreate struct {
	storedFlags
	key         keyFlags
	json        bool
	recipients  []string
	tags        []string
	claim       string
	base        string
	full, fresh bool
}

func snapshotCreateCommand() *cobra.Command {
	var o snapshotCreate
	c := &cobra.Command{
		Use:   "create [--key-file FILE] DEVICE-OR-DIR NAME... | --store URL --tenant-file FILE --key-file FILE DEVICE-OR-DIR [NAME]",
		Short: "Create snapshots",
		Long: `Without --store, create local snapshots of everything that was written before. They are
durable when the command returns. A name has up to 128 letters, digits and the
characters . _ - : + @ and begins with a letter, a digit or _.

With --store, create a stored snapshot: an encrypted copy in the store. The volume may
be mounted and in use: give its directory. The command makes a local snapshot and stores
that. It is kept, so that the next stored snapshot only reads what changed since, and is
deleted when the next one is complete. Its name begins with ses-. If there is none, the
command reads everything and stores what the store does not have of this volume.

The key is needed for a mounted volume as well. It gets a key slot of the snapshot, and
so do the recovery keys of the volume and each --recipient: any of these keys, together
with the tenant secret, opens the snapshot.

If the command is interrupted, run it again: it goes on with the same state. It says so;
--fresh begins again with the present state.`,
		Example: `  sealvol snapshot create /mnt before-upgrade
  sealvol snapshot create --key-file vol.key vol.img monday
  sealvol snapshot create --store file:///backup --tenant-file tenant.key --key-file vol.key /mnt nightly`,
		Args: args(1, -1, "a DEVICE-OR-DIR and a NAME"),
		RunE: func(c *cobra.Command, a []string) error {
			isStored, err := o.isStored(c, 1, -1)
			switch {
			case err != nil:
				return err
			case isStored && len(a) > 2:
				return usageError(errors.New("with --store, give one DEVICE-OR-DIR and at most one NAME"))
			case isStored:
				ctx, cancel := interruptible(c)
				defer cancel()
				return o.stored(ctx, c.OutOrStdout(), a)
			}
			if err := onlyStored(c.Flags(), "recipient", "base", "full", "fresh", "limit-upload", "limit-download"); err != nil {
				return err
			}
			return o.local(c, a)
		},
	}
	f := c.Flags()
	o.key.register(f)
	o.register(f)
	o.rate.registerUpload(f)
	o.rate.registerDownload(f)
	f.StringArrayVar(&o.recipients, "recipient", nil, "with --store: public half of a recovery key that opens the snapshot as well, or a file that contains it; may be repeated")
	f.StringArrayVar(&o.tags, "tag", nil, "with --store: a tag, NAME=VALUE; may be repeated")
	f.StringVar(&o.claim, "claim", "", "with --store: the claim that the volume belongs to, NAMESPACE/NAME")
	f.StringVar(&o.base, "base", "", "with --store: build on this stored snapshot if the volume keeps no local snapshot of one: the snapshot that the volume was restored from")
	f.BoolVar(&o.full, "full", false, "with --store: build on no earlier snapshot: read and store everything")
	f.BoolVar(&o.fresh, "fresh", false, "with --store: do not go on with an interrupted snapshot; give up what it stored")
	f.BoolVar(&o.json, "json", false, "print the snapshots as JSON; with --store, one event per line")
	return c
}

// local creates local snapshots.
func (o *snapshotCreate) local(c *cobra.Command, a []string) (err error) {
	if len(a) < 2 {
		return usageError(errors.New("expected a DEVICE-OR-DIR and at least one NAME, got 1 arguments"))
	}
	t, err := openTarget(a[0], &o.key, false)
	if err != nil {
		return err
	}
	defer t.end(&err)
	var made []volumectl.Snapshot
	for _, name := range a[1:] {
		s, err := t.create(name)
		if err != nil {
			return t.wrap(err)
		}
		made = append(made, s)
	}
	return printSnapshots(c.OutOrStdout(), made, o.json)
}

// label checks and returns what lists show of the snapshot.
func (o *snapshotCreate) label(a []string) (l create.Label, err error) {
	l = create.Label{Claim: o.claim, Tags: map[string]string{}}
	if len(a) > 1 {
		l.Name = a[1]
		if l.Name == snapstore.Latest || strings.HasPrefix(l.Name, snapstore.Latest+":") || strings.HasPrefix(l.Name, "ss1.") {
			return l, usageError(fmt.Errorf("the name %s has another meaning where commands take a SNAPSHOT: choose another name", printable(l.Name)))
		}
	}
	if host, err := os.Hostname(); err == nil {
		l.Host = host
	}
	for _, t := range o.tags {
		name, value, ok := strings.Cut(t, "=")
		if _, twice := l.Tags[name]; !ok || name == "" || twice {
			return l, usageError(fmt.Errorf("--tag %s: give NAME=VALUE, each NAME once", printable(t)))
		}
		l.Tags[name] = value
	}
	if o.base != "" && o.full {
		return l, usageError(errors.New("--base is what to build on, --full builds on nothing: give one of them"))
	}
	if ns, name, ok := strings.Cut(o.claim, "/"); o.claim != "" && (!ok || ns == "" || name == "" || strings.Contains(name, "/")) {
		return l, usageError(fmt.Errorf("--claim %s: give NAMESPACE/NAME", printable(o.claim)))
	}
	if err := manifest.CheckLabel(l.Name, l.Claim, l.Host, l.Tags); err != nil {
		return l, usageError(err)
	}
	return l, nil
}

// recipientsOf returns who can open the snapshot: the key that was given, the recovery keys of the
// volume, and --recipient.
func (o *snapshotCreate) recipientsOf(cred crypto.Credential, own []*crypto.RecoveryRecipient, suite crypto.Suite) ([]crypto.Recipient, error) {
	var list []crypto.Recipient
	var known []*crypto.RecoveryRecipient
	add := func(r *crypto.RecoveryRecipient) {
		for _, k := range known {
			if k.Equal(r) {
				return
			}
		}
		known, list = append(known, r), append(list, r)
	}
	switch c := cred.(type) {
	case *crypto.RecoverySecret:
		r, err := c.Recipient()
		if err != nil {
			return nil, err
		}
		add(r)
	case crypto.Recipient:
		list = append(list, c)
	}
	for _, r := range own {
		add(r)
	}
	for _, text := range o.recipients {
		r, err := readRecipient(text)
		if err != nil {
			return nil, err
		}
		if r.Suite() != suite {
			return nil, usageError(fmt.Errorf("--recipient %.24s…: the recovery key is for suite %v, and the volume has %v: generate one with `sealvol key generate --recovery --suite %v`", r.String(), r.Suite(), suite, suite))
		}
		add(r)
	}
	return list, nil
}

// created is the JSON of a stored snapshot that is complete.
type created struct {
	Event       string `json:"event"`
	ID          string `json:"id"`
	Handle      string `json:"handle"`
	Name        string `json:"name,omitempty"`
	Volume      string `json:"volume"`
	Created     string `json:"created"`
	Base        string `json:"base,omitempty"`
	Incremental bool   `json:"incremental"`
	Why         string `json:"why,omitempty"` // it is not incremental
	Resumed     bool   `json:"resumed"`
	Files       uint64 `json:"files"`
	Directories uint64 `json:"directories"`
	Logical     uint64 `json:"logicalBytes"`
	Read        uint64 `json:"readBytes"`
	Reused      uint64 `json:"reusedBytes"`
	Stored      int64  `json:"storedBytes"`
	Packs       int    `json:"packs"`
	Seconds     string `json:"-"`
	Millis      int64  `json:"milliseconds"`
	LockedUntil string `json:"lockedUntil,omitempty"`
	Local       string `json:"local,omitempty"` // the base of the next one
	Requests    any    `json:"requests"`
}

func (r *created) print(w io.Writer, target, requests string) {
	kind := "incremental since " + short(r.Base)
	switch {
	case r.Resumed && r.Why == "" && r.Read == 0 && r.Base == "":
		kind = "resumed"
	case !r.Incremental && r.Base != "":
		kind = "read completely, stored since " + short(r.Base)
	case !r.Incremental:
		kind = "full"
	}
	say(w, "%s: stored snapshot %s, %s\n", printable(target), short(r.ID), kind)
	if r.Why != "" {
		say(w, "  not incremental: %s\n", r.Why)
	}
	say(w, "  content:  %s in %s and %s\n", formatSize(int64(r.Logical)), counted(r.Files, "file"), counted(r.Directories, "directory"))
	say(w, "  read:     %s, of which %s were stored already\n", formatSize(int64(r.Read)), formatSize(int64(min(r.Reused, r.Read))))
	say(w, "  stored:   %s in %s, in %s\n", formatSize(r.Stored), counted(r.Packs, "pack"), r.Seconds)
	say(w, "  requests: %s\n", requests)
	if r.LockedUntil != "" {
		say(w, "  locked:   nothing of it can be deleted before %s\n", r.LockedUntil)
	}
	say(w, "  handle:   %s\n", r.Handle)
}

func short(id string) string { return id[:min(len(id), shortID)] }
