package main

import (
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

func keyListCommand() *cobra.Command {
	var key keyFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "list [--key-file FILE] [--json] DEVICE-OR-DIR",
		Short: "List the key slots of a volume",
		Long: `List the key slots of a volume, and the progress of a rotation of its data key.

For a DEVICE, nothing that is shown is authenticated unless you give a key. If the
device is in use, give no key.`,
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
	c, err := serverOf(target)
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
			note = "opened with this key"
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
