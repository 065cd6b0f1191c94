package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume"
)

func keyRotateDataCommand() *cobra.Command {
	var secrets, phrases, recoveries []string
	var drop, again, resume, noWait, asJSON bool
	var rate byteSize
	c := &cobra.Command{
		Use:   "rotate-data --key-file FILE... [flags] DEVICE-OR-DIR",
		Short: "Replace the data key of a volume, and rewrite all data",
		Long: `Replace the data key of a volume. New data is written under the new key immediately.
Existing data is rewritten in the background while the volume is in use. After a crash,
the next mount continues. At the end, the old data key opens nothing on the volume. Local
snapshots keep their data under the old key. The old key is dropped when they are
deleted; the command prints their names.

Every key slot must be written again, which requires its key. Give the key of each slot
(the flags may be repeated), except for recovery keys. If the key of a slot is missing,
the command fails. With --drop-slots, it removes the slot instead.

The command returns when the rotation is complete, or when it waits for something else,
such as a snapshot. If it is interrupted, or with --no-wait, the server of a mounted
volume continues the rotation. On a DEVICE, the next mount or --resume continues it.
--resume never starts a new rotation. If a rotation is already running, the command
continues it; use --again to start another one.`,
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
			if c, err := serverOf(a[0]); err != nil {
				return err
			} else if len(sources) == 0 && !(c != nil && resume) {
				return fmt.Errorf("%w at least one of --key-file, --passphrase-file and --recovery-key-file", errKeyFlags)
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
	f.StringArrayVar(&recoveries, "recovery-key-file", nil, "file with the secret half of a recovery key, to open a DEVICE")
	f.BoolVar(&drop, "drop-slots", false, "remove the key slots whose keys are not given")
	f.BoolVar(&again, "again", false, "start another rotation even if one is running")
	f.BoolVar(&resume, "resume", false, "continue a running rotation, if there is one, and never start a new one")
	f.BoolVar(&noWait, "no-wait", false, "return as soon as new data is written under the new key")
	f.Var(&rate, "rate", "maximum rate of rewriting per second (default 128MiB)")
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
		_, err = fmt.Fprintf(w, "data key: epoch %d; no other data key remains\n", r.Epochs[len(r.Epochs)-1])
	case volume.RotationWaiting:
		_, err = fmt.Fprintf(w, "data key: epoch %d; the old key is kept: %s\n", r.Target, printable(r.Waits))
	default:
		_, err = fmt.Fprintf(w, "data key: epoch %d; %s of %s rewritten under it, %s\n", r.Target, formatSize(int64(r.DoneBytes)), formatSize(int64(r.TotalBytes)), r.Phase)
	}
	return err
}
