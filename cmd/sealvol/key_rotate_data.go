package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/mountserver/mounts"
	"github.com/sealvol/sealvol/pkg/volume"
)

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
