package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/mountserver/mounts"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

// keySource is a file with a key, and what the key is for.
type keySource struct {
	role volumectl.KeyRole
	kind volumectl.KeyKind
	path string
}

func (f *keyFlags) source(role volumectl.KeyRole) keySource {
	switch {
	case f.keyFile != "":
		return keySource{role, volumectl.KindSecret, f.keyFile}
	case f.passphraseFile != "":
		return keySource{role, volumectl.KindPassphrase, f.passphraseFile}
	}
	return keySource{role, volumectl.KindRecovery, f.recoveryKeyFile}
}

// newKeyFlags are the ways to give a key that is to open a volume.
type newKeyFlags struct {
	keyFlags
	recipient string
}

func (f *newKeyFlags) register(c *cobra.Command) {
	f.prefix = "new-"
	f.keyFlags.register(c.Flags())
	c.Flags().StringVar(&f.recipient, "recipient", "", "public half of a recovery key, or the name of a file that holds it")
}

func (f *newKeyFlags) source() (s keySource, err error) {
	if f.recipient == "" {
		return f.keyFlags.source(volumectl.KeyNew), f.one()
	}
	if f.given() {
		return s, usageError(errors.New("give --recipient or one of the flags --new-…, not both"))
	}
	return keySource{volumectl.KeyNew, volumectl.KindRecipient, f.recipient}, nil
}

// keyFileOf gathers keys in memory, for the server of a mount or for us.
func keyFileOf(sources []keySource) (f *volumectl.KeyFile, err error) {
	if f, err = volumectl.NewKeyFile(); err != nil {
		return nil, err
	}
	for _, s := range sources {
		if err := addKeyTo(f, s); err != nil {
			f.Close()
			return nil, fmt.Errorf("read the key: %w", err)
		}
	}
	return f, f.Seal()
}

func addKeyTo(f *volumectl.KeyFile, s keySource) error {
	if s.kind == volumectl.KindRecipient && strings.HasPrefix(strings.ToLower(s.path), "sealvolpub1") {
		return f.Add(s.role, s.kind, strings.NewReader(s.path))
	}
	in, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := f.Add(s.role, s.kind, in); err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	return nil
}

// keyOp is a request about keys: to the server of a mounted DIR, or carried out
// here on a DEVICE, by the same function.
type keyOp[R any] struct {
	op       string
	args     any
	sources  []keySource
	progress func(done, total uint64)
	local    func(ctx context.Context, v *volume.Volume, keys *volumectl.KeySet) (R, error)
}

func (o *keyOp[R]) run(target string) (r R, err error) {
	c, err := mounts.Server(target)
	if err != nil {
		return r, err
	}
	f, err := keyFileOf(o.sources)
	if err != nil {
		return r, err
	}
	defer f.Close()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if c != nil {
		req := control.Request{Op: o.op, Args: o.args}
		if o.progress != nil {
			req.Progress = func(p control.Progress) { o.progress(p.Done, p.Total) }
		}
		if len(o.sources) > 0 {
			req.File = f.File
		}
		return r, volumectl.FromServer(c.Do(ctx, req, &r))
	}
	keys, err := volumectl.ReadKeys(f)
	if err != nil {
		return r, err
	}
	defer keys.Erase()
	return o.onDevice(ctx, target, keys)
}

func (o *keyOp[R]) onDevice(ctx context.Context, path string, keys *volumectl.KeySet) (r R, err error) {
	dev, err := openDevice(path, false)
	if errors.Is(err, device.ErrInUse) {
		return r, withHint(err, "if it is mounted, give the directory in place of the device")
	}
	if err != nil {
		return r, err
	}
	v, err := openByAny(dev, path, keys)
	if err != nil {
		discard(dev)
		return r, err
	}
	defer func() { err = errors.Join(err, v.Close(), dev.Close()) }()
	return o.local(ctx, v, keys)
}

// openByAny opens a volume by the first key that fits: the new one, too, if a
// rotation was interrupted after it had taken the place of the old one.
func openByAny(dev *device.File, path string, keys *volumectl.KeySet) (v *volume.Volume, err error) {
	creds := append([]crypto.Credential{}, keys.Old...)
	if keys.New != nil && keys.New.Credential != nil {
		creds = append(creds, keys.New.Credential)
	}
	var first error
	for _, c := range creds {
		if v, err = openOn(dev, path, c, volume.Options{}); err == nil || !errors.Is(err, volume.ErrWrongKey) {
			return v, err
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// deviceKey is the key that a DEVICE needs. The server of a DIR has one; if one is given it is checked.
func deviceKey(target string, key *keyFlags) ([]keySource, error) {
	c, err := mounts.Server(target)
	if err != nil {
		return nil, err
	}
	if c != nil {
		return nil, checkKey(c, target, key)
	}
	if err := key.one(); err != nil {
		return nil, err
	}
	return []keySource{key.source(volumectl.KeyOld)}, nil
}

func jsonFlag(c *cobra.Command, asJSON *bool) {
	c.Flags().BoolVar(asJSON, "json", false, "print it as JSON")
}

func keyListCommand() *cobra.Command {
	var key keyFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "list [--key-file FILE] [--json] DEVICE-OR-DIR",
		Short: "List the keys that open a volume",
		Long: `List the key slots of a volume, and how far a rotation of its data key has come.

Of a DEVICE nothing that is shown is authenticated, unless a key is given. A device
that is in use is listed without one.`,
		Example: `  sealvol key list /mnt
  sealvol key list --key-file vol.key vol.img`,
		Args: args(1, 1, "one DEVICE-OR-DIR"),
		RunE: func(c *cobra.Command, a []string) error {
			l, err := listKeys(a[0], &key)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(c.OutOrStdout(), l)
			}
			return printKeys(c.OutOrStdout(), l)
		},
	}
	key.register(c.Flags())
	jsonFlag(c, &asJSON)
	return c
}

func listKeys(target string, key *keyFlags) (l volumectl.KeyList, err error) {
	c, err := mounts.Server(target)
	if err != nil {
		return l, err
	}
	if c != nil {
		if err := checkKey(c, target, key); err != nil {
			return l, err
		}
		ctx, cancel := shortTime()
		defer cancel()
		return l, c.Do(ctx, control.Request{Op: "key-list"}, &l)
	}
	if key.given() {
		v, end, err := openReadOnly(target, key)
		if err != nil {
			return l, err
		}
		defer end()
		return volumectl.ListKeys(v), nil
	}
	dev, err := device.Open(target, device.OpenOptions{ReadOnly: true, Shared: true})
	if err != nil {
		return l, err
	}
	defer discard(dev)
	slots, err := volume.ReadKeySlots(dev)
	if err != nil {
		return l, volumeError(dev, target, err)
	}
	l.Slots = []volumectl.KeySlot{}
	for _, s := range slots {
		l.Slots = append(l.Slots, volumectl.KeySlot{Slot: s.Index, Type: crypto.SlotTypeName(s.Type), Epochs: s.Epochs, Fingerprint: s.Fingerprint})
	}
	return l, nil
}

func printKeys(w io.Writer, l volumectl.KeyList) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range l.Slots {
		note := ""
		if s.Opened {
			note = "opened with it"
		}
		say(t, "%d\t%s\t%s\t%s\n", s.Slot, s.Type, s.Fingerprint, note)
	}
	if len(l.Slots) == 0 {
		say(t, "%v\n", volume.ErrShredded)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if l.Rotation != nil {
		return printRotation(w, l.Rotation)
	}
	return nil
}

func keyAddCommand() *cobra.Command {
	var key keyFlags
	var to newKeyFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "add [--key-file FILE] --new-key-file FILE [--json] DEVICE-OR-DIR",
		Short: "Let one more key open a volume",
		Long: `Let one more key open a volume: a key file, a passphrase, or a recovery key, of which
the public half is enough (--recipient). A DEVICE needs a key that opens it now; the
server of a mounted DIR has it.`,
		Example: `  sealvol key add --new-passphrase-file phrase /mnt
  sealvol key add --key-file vol.key --recipient rescue.pub vol.img`,
		Args: args(1, 1, "one DEVICE-OR-DIR"),
		RunE: func(c *cobra.Command, a []string) error {
			src, err := to.source()
			if err != nil {
				return err
			}
			from, err := deviceKey(a[0], &key)
			if err != nil {
				return err
			}
			op := keyOp[volumectl.KeyChange]{op: "key-add", sources: append(from, src),
				local: func(_ context.Context, v *volume.Volume, k *volumectl.KeySet) (volumectl.KeyChange, error) {
					return volumectl.AddKey(v, k)
				}}
			return op.report(c.OutOrStdout(), a[0], asJSON)
		},
	}
	key.register(c.Flags())
	to.register(c)
	jsonFlag(c, &asJSON)
	return c
}

// report runs the request and prints what changed.
func (o *keyOp[R]) report(w io.Writer, target string, asJSON bool) error {
	r, err := o.run(target)
	if err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	if asJSON {
		return writeJSON(w, r)
	}
	switch r := any(&r).(type) {
	case *volumectl.KeyChange:
		return printKeyChange(w, r)
	case *volumectl.Rotation:
		return printRotation(w, r)
	}
	return nil
}

func printKeyChange(w io.Writer, c *volumectl.KeyChange) (err error) {
	if c.Slot >= 0 {
		what := "was there already"
		if c.Added {
			what = "added"
		}
		_, err = fmt.Fprintf(w, "key slot %d: %s\n", c.Slot, what)
	}
	for _, s := range c.Removed {
		_, e := fmt.Fprintf(w, "key slot %d: removed\n", s)
		err = errors.Join(err, e)
	}
	return err
}

func keyRemoveCommand() *cobra.Command {
	var key keyFlags
	var last, asJSON bool
	c := &cobra.Command{
		Use:   "remove [--key-file FILE] [--last] [--json] DEVICE-OR-DIR SLOT",
		Short: "Let a key open a volume no more",
		Long: `Remove the key in a slot (sealvol key list shows them): it opens the volume no more,
also if an old copy of the header is put back. Somebody who opened the volume with it
before may have kept the data key: see rotate-data.

The last key is removed with --last only: then nothing opens the volume any more.
To destroy a volume for good use sealvol key shred, which gives a receipt.`,
		Example: `  sealvol key remove /mnt 2
  sealvol key remove --key-file vol.key vol.img 0`,
		Args: args(2, 2, "DEVICE-OR-DIR and SLOT"),
		RunE: func(c *cobra.Command, a []string) error {
			slot, err := strconv.Atoi(a[1])
			if err != nil {
				return usageError(fmt.Errorf("SLOT %q is not a number", a[1]))
			}
			from, err := deviceKey(a[0], &key)
			if err != nil {
				return err
			}
			req := volumectl.KeyRemove{Slot: slot, Last: last}
			op := keyOp[volumectl.KeyChange]{op: "key-remove", args: req, sources: from,
				local: func(_ context.Context, v *volume.Volume, _ *volumectl.KeySet) (volumectl.KeyChange, error) {
					return volumectl.RemoveKey(v, req)
				}}
			return op.report(c.OutOrStdout(), a[0], asJSON)
		},
	}
	key.register(c.Flags())
	c.Flags().BoolVar(&last, "last", false, "remove it even if it is the last one: nothing opens the volume then")
	jsonFlag(c, &asJSON)
	return c
}

func keyRotateCommand() *cobra.Command {
	var key keyFlags
	var to newKeyFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "rotate --key-file OLD --new-key-file NEW [--json] DEVICE-OR-DIR",
		Short: "Replace a key by another",
		Long: `Replace a key by another: the new one gets a slot, is read back, and then the slot of
the old one is removed. Data is not written again, so it takes a moment for any
volume. If it is interrupted, repeat it: until it has ended both keys open the volume.`,
		Example: `  sealvol key rotate --key-file old.key --new-key-file new.key /mnt`,
		Args:    args(1, 1, "one DEVICE-OR-DIR"),
		RunE: func(c *cobra.Command, a []string) error {
			if err := key.one(); err != nil {
				return err
			}
			src, err := to.source()
			if err != nil {
				return err
			}
			op := keyOp[volumectl.KeyChange]{op: "key-rotate", sources: []keySource{key.source(volumectl.KeyOld), src},
				local: func(ctx context.Context, v *volume.Volume, k *volumectl.KeySet) (volumectl.KeyChange, error) {
					return volumectl.RotateKey(ctx, v, k)
				}}
			return op.report(c.OutOrStdout(), a[0], asJSON)
		},
	}
	key.register(c.Flags())
	to.register(c)
	jsonFlag(c, &asJSON)
	return c
}

func keyRotateDataCommand() *cobra.Command {
	var secrets, phrases, recoveries []string
	var drop, again, resume, noWait, asJSON bool
	var rate byteSize
	c := &cobra.Command{
		Use:   "rotate-data --key-file FILE... [flags] DEVICE-OR-DIR",
		Short: "Give a volume a new data key, and write everything again",
		Long: `Give a volume a new data key. From then on everything is written under it; what is
there already is rewritten in the background, while the volume is used, also by later
mounts after a crash. In the end the old data key opens nothing of the volume any
more. Local snapshots keep what they hold under the old key: it is given up when
those are deleted, whose names are shown.

Every key slot has to be made again, which takes its key: give the key of each slot
(the flags may be repeated). Recovery keys need not be given. Slots whose keys are
not given are an error, or removed with --drop-slots.

The command returns when all is done, or when only something else is waited for.
Interrupted or with --no-wait, a mounted volume goes on by itself; a DEVICE goes on when
it is mounted, or with --resume, which begins no new rotation should the old one have
ended. While a rotation is under way the command only goes on with it; --again begins
another one.`,
		Example: `  sealvol key rotate-data --key-file vol.key --passphrase-file phrase /mnt
  sealvol key rotate-data --resume /mnt`,
		Args: args(1, 1, "one DEVICE-OR-DIR"),
		RunE: func(c *cobra.Command, a []string) error {
			var sources []keySource
			for kind, paths := range map[volumectl.KeyKind][]string{volumectl.KindSecret: secrets, volumectl.KindPassphrase: phrases, volumectl.KindRecovery: recoveries} {
				for _, p := range paths {
					sources = append(sources, keySource{volumectl.KeyOld, kind, p})
				}
			}
			if c, err := mounts.Server(a[0]); err != nil {
				return err
			} else if len(sources) == 0 && !(c != nil && resume) {
				return fmt.Errorf("%w: give at least one --key-file, --passphrase-file or --recovery-key-file", errKeyFlags)
			}
			bar := newProgress("rewriting")
			defer bar.end()
			req := volumectl.RotateData{Drop: drop, Again: again, Resume: resume, BytesPerSecond: int64(rate), Wait: !noWait}
			op := keyOp[volumectl.Rotation]{op: "key-rotate-data", args: req, sources: sources, progress: bar.set,
				local: func(ctx context.Context, v *volume.Volume, k *volumectl.KeySet) (volumectl.Rotation, error) {
					return volumectl.RotateDataKey(ctx, v, k, req, bar.set)
				}}
			return op.report(c.OutOrStdout(), a[0], asJSON)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&secrets, "key-file", nil, "file with a key; may be repeated")
	f.StringArrayVar(&phrases, "passphrase-file", nil, "file with a passphrase; may be repeated")
	f.StringArrayVar(&recoveries, "recovery-key-file", nil, "file with the secret half of a recovery key, to open a DEVICE by it")
	f.BoolVar(&drop, "drop-slots", false, "remove the key slots whose keys are not given")
	f.BoolVar(&again, "again", false, "begin another rotation although one is under way")
	f.BoolVar(&resume, "resume", false, "go on with the rotation that is under way, if any, and begin none")
	f.BoolVar(&noWait, "no-wait", false, "return when new data is written under the new key")
	f.Var(&rate, "rate", "bytes to rewrite a second, at most; 128MiB if not given")
	jsonFlag(c, &asJSON)
	return c
}

func printRotation(w io.Writer, r *volumectl.Rotation) error {
	for _, s := range r.Dropped {
		say(w, "key slot %d: removed\n", s)
	}
	var err error
	switch volume.RotationPhase(r.Phase) {
	case volume.RotationNone:
		_, err = fmt.Fprintf(w, "data key: epoch %d, and no other\n", r.Epochs[len(r.Epochs)-1])
	case volume.RotationWaiting:
		_, err = fmt.Fprintf(w, "data key: epoch %d; the old key is kept: %s\n", r.Target, printable(r.Waits))
	default:
		_, err = fmt.Fprintf(w, "data key: epoch %d; %s of %s are under it, %s\n", r.Target, formatSize(int64(r.DoneBytes)), formatSize(int64(r.TotalBytes)), r.Phase)
	}
	return err
}

func keyShredCommand() *cobra.Command {
	var confirm string
	c := &cobra.Command{
		Use:   "shred --confirm UUID DEVICE-OR-DIR",
		Short: "Destroy a volume by erasing all its keys",
		Long: `Destroy a volume: all key slots are overwritten in both copies of the header,
discarded where the device can do that, and read back. Nothing opens the volume any
more, and it says so. What the volume is worth to somebody who holds another copy of
the device and a key of that time, only you know: the receipt, which is printed as
JSON, says what is left to do.

It needs no key. The UUID (sealvol info DEVICE) is asked for, so that no other volume
is hit. A mount stops at once; unmount it afterwards.`,
		Example: `  sealvol key shred --confirm 6e1c9c0e-5d0c-4c3f-9a53-3c1f0a8b7d11 vol.img > receipt.json`,
		Args:    args(1, 1, "one DEVICE-OR-DIR"),
		RunE: func(c *cobra.Command, a []string) error {
			r, err := shred(a[0], confirm)
			if err != nil {
				return err
			}
			return writeJSON(c.OutOrStdout(), r)
		},
	}
	c.Flags().StringVar(&confirm, "confirm", "", "UUID of the volume to destroy")
	c.Flags().Bool("json", true, "the receipt is JSON always")
	return c
}

func shred(target, confirm string) (*volume.ShredReceipt, error) {
	c, err := mounts.Server(target)
	if err != nil {
		return nil, err
	}
	if confirm == "" {
		return nil, usageError(errors.New("say which volume is to be destroyed: --confirm UUID; `sealvol info` shows it"))
	}
	if c != nil {
		var r volume.ShredReceipt
		return &r, c.Do(context.Background(), control.Request{Op: "key-shred", Args: volumectl.KeyShred{Volume: confirm}}, &r)
	}
	dev, err := openDevice(target, false)
	if errors.Is(err, device.ErrInUse) {
		return nil, withHint(err, "if it is mounted, give the directory in place of the device")
	}
	if err != nil {
		return nil, err
	}
	defer discard(dev) // Shred flushed it
	h, err := volume.ReadHeader(dev)
	if err != nil {
		return nil, volumeError(dev, target, err)
	}
	if h.ID.String() != confirm {
		return nil, fmt.Errorf("%s: the volume is %s, not %s", target, h.ID, confirm)
	}
	r, err := volume.Shred(dev)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", target, err)
	}
	return r, nil
}
