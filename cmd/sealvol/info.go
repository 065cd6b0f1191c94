package main

import (
	"bytes"
	"fmt"
	"io"
	"math/bits"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mountserver/mounts"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

func infoCommand() *cobra.Command {
	var key keyFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "info [--key-file FILE] [--json] DEVICE-OR-DIR",
		Short: "Show the properties and state of a volume",
		Long: `Show what the volume's header tells everybody: identity, cipher, format, features and
the kinds of keys that open it. With a key, also show the size, the last commit, the
usage at that time, and whether the log waits for replay.

The command changes nothing. The device may be in use. Without a key, nothing that it
shows is authenticated.

For a mounted volume, give the directory. Then the command asks the mount server for
the current state: usage, data that is not on the device yet, snapshots, freezes, a
rotation of the data key, and problems.`,
		Example: `  sealvol info /dev/nvme1n1
  sealvol info --key-file vol.key --json vol.img
  sealvol info /mnt`,
		Args: args(1, 1, "one DEVICE-OR-DIR"),
		RunE: func(c *cobra.Command, a []string) error {
			server, err := mountOrDevice(a[0], &key)
			if err != nil {
				return err
			}
			var r report
			if server != nil {
				r, err = askMount(c.Context(), server, a[0])
			} else {
				r, err = inspect(a[0], &key)
			}
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(c.OutOrStdout(), r)
			}
			_, err = io.WriteString(c.OutOrStdout(), r.text())
			return err
		},
	}
	key.register(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return c
}

// infoReport is the JSON of info.
type infoReport struct {
	Device         string     `json:"device"`
	DeviceBytes    int64      `json:"deviceBytes"`
	UUID           string     `json:"uuid"`
	Suite          string     `json:"suite"`
	FormatVersion  uint32     `json:"formatVersion"`
	RecordBytes    int64      `json:"recordBytes"`
	HeaderSequence uint64     `json:"headerSequence"`
	Features       features   `json:"features"`
	Slots          []slotInfo `json:"slots"`
	HeaderDamage   []string   `json:"headerDamage,omitempty"`
	Restoring      bool       `json:"restoring,omitempty"`
	InUse          bool       `json:"inUse"`
	MountedOn      []string   `json:"mountedOn,omitempty"`
	State          *stateInfo `json:"state,omitempty"` // with a key
}

// features are the numbers of the bits set in each feature word.
type features struct {
	Compat   []int `json:"compat"`
	ROCompat []int `json:"roCompat"`
	Incompat []int `json:"incompat"`
}

type slotInfo struct {
	Slot int    `json:"slot"`
	Type string `json:"type"`
}

type stateInfo struct {
	KeySlot    int    `json:"keySlot"`
	SizeBytes  int64  `json:"sizeBytes"`
	DataBytes  int64  `json:"dataBytes"`
	UsedBytes  int64  `json:"usedBytes"`
	FreeBytes  int64  `json:"freeBytes"`
	Reserved   int64  `json:"reservedBytes"`
	Inodes     uint64 `json:"inodes"`
	Label      string `json:"label,omitempty"`
	Generation uint64 `json:"generation"`
	MountEpoch uint64 `json:"mountEpoch"`
	Clean      bool   `json:"clean"`
	Log        string `json:"log"` // logEmpty…
	LogBytes   int64  `json:"logBytes"`
	LogRecords int    `json:"logRecords"`
	LogError   string `json:"logError,omitempty"`
	BadRoots   []int  `json:"badRoots,omitempty"`
}

// States of the log.
const (
	logEmpty   = "empty"
	logReplay  = "replay" // the next mount replays it
	logInUse   = "in-use"
	logDamaged = "damaged"
)

// report can be printed as JSON or text.
type report interface{ text() string }

func inspect(path string, key *keyFlags) (report, error) {
	var cred crypto.Credential
	if key.given() {
		var err error
		if cred, err = key.credential(); err != nil {
			return nil, err
		}
		defer cred.Erase()
	}
	dev, err := device.Open(path, device.OpenOptions{ReadOnly: true, Shared: true})
	if err != nil {
		return nil, err
	}
	defer discard(dev)
	if v1, err := isV1(dev); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	} else if v1 {
		r, err := inspectV1(dev, path, cred)
		return r, key.explain(err)
	}
	h, err := volume.ReadHeader(dev)
	if err != nil {
		return nil, volumeError(dev, path, err)
	}
	r := headerReport(path, h)
	if r.DeviceBytes, err = dev.Size(); err != nil {
		return nil, err
	}
	if r.InUse, r.MountedOn, err = useOf(path); err != nil {
		return nil, err
	}
	if cred == nil {
		return r, nil
	}
	i, err := volume.Inspect(dev, cred, r.InUse)
	if err != nil {
		return nil, key.explain(volumeError(dev, path, err))
	}
	r.State = stateReport(i, r.InUse)
	return r, nil
}

// useOf tells whether another process has a device open, and where it is mounted.
func useOf(path string) (inUse bool, mountedOn []string, err error) {
	if inUse, err = mounts.InUse(path); err != nil || !inUse {
		return false, nil, err
	}
	mountedOn, err = mounts.Of(path)
	return true, mountedOn, err
}

// useText is the result of useOf as text.
func useText(inUse bool, mountedOn []string) string {
	switch {
	case len(mountedOn) > 0:
		return "mounted on " + printable(mountedOn[0])
	case inUse:
		return "yes, another process has it open"
	}
	return "no"
}

func headerReport(path string, h *volume.HeaderInfo) *infoReport {
	r := &infoReport{Device: path, UUID: h.ID.String(), Suite: h.Suite.String(), FormatVersion: h.FormatVersion,
		RecordBytes: volume.RecordBytes, HeaderSequence: h.Sequence, HeaderDamage: h.Damaged, Restoring: h.Restoring,
		Features: features{bitNumbers(h.Compat), bitNumbers(h.ROCompat), bitNumbers(h.Incompat)}}
	for _, s := range h.Slots {
		r.Slots = append(r.Slots, slotInfo{s.Index, crypto.SlotTypeName(s.Type)})
	}
	return r
}

func bitNumbers(w uint64) []int {
	n := []int{}
	for ; w != 0; w &= w - 1 {
		n = append(n, bits.TrailingZeros64(w))
	}
	return n
}

func stateReport(i *volume.RootInfo, inUse bool) *stateInfo {
	s := &stateInfo{KeySlot: i.Slot, SizeBytes: i.SizeBytes, DataBytes: i.DataBytes, UsedBytes: i.DataBytes - i.FreeBytes, FreeBytes: i.FreeBytes, Reserved: i.ReservedBytes,
		Inodes: i.Inodes, Generation: i.Generation, MountEpoch: i.MountEpoch, Clean: i.Clean, Log: logEmpty,
		LogBytes: i.LogBytes, LogRecords: i.LogRecords, BadRoots: i.BadRoots, Label: i.Label}
	switch {
	case inUse:
		s.Log = logInUse
	case i.LogErr != nil:
		s.Log, s.LogError = logDamaged, i.LogErr.Error()
	case i.LogRecords > 0:
		s.Log = logReplay
	}
	return s
}

func (r *infoReport) text() string {
	var b bytes.Buffer
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-16s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	line("Device", "%s (%s)", r.Device, formatSize(r.DeviceBytes))
	line("Volume", "%s", r.UUID)
	line("Cipher", "%s", r.Suite)
	line("Format", "v%d, records of %s", r.FormatVersion, formatSize(r.RecordBytes))
	line("Features", "compat %v, ro_compat %v, incompat %v", r.Features.Compat, r.Features.ROCompat, r.Features.Incompat)
	for _, s := range r.Slots {
		line(fmt.Sprintf("Key slot %d", s.Slot), "%s", s.Type)
	}
	for _, d := range r.HeaderDamage {
		line("Header damage", "%s; the next read-write mount repairs it", d)
	}
	if r.Restoring {
		line("Restoring", "yes, the volume is incomplete; nothing can be read before the restore is complete")
	}
	line("In use", "%s", useText(r.InUse, r.MountedOn))
	if s := r.State; s != nil {
		line("Opened with", "key slot %d", s.KeySlot)
		if s.Label != "" {
			line("Label", "%s", printable(s.Label))
		}
		line("Size", "%s, %s for files and metadata", formatSize(s.SizeBytes), formatSize(s.DataBytes))
		line("Used", "%s, %s free, %d inodes", formatSize(s.UsedBytes), formatSize(s.FreeBytes), s.Inodes)
		if s.Reserved > 0 {
			line("Reserved", "%s of the used space, for file ranges (fallocate)", formatSize(s.Reserved))
		}
		line("Generation", "%d, mounted read-write %d times", s.Generation, s.MountEpoch)
		line("Log", "%s", s.logText())
		if len(s.BadRoots) > 0 {
			line("Root slots", "%v do not verify: a write was interrupted, or the device is damaged", s.BadRoots)
		}
	}
	return b.String()
}

func (s *stateInfo) logText() string {
	switch s.Log {
	case logInUse:
		return fmt.Sprintf("%s, in use", formatSize(s.LogBytes))
	case logReplay:
		return fmt.Sprintf("%s, %d records; the next mount replays them", formatSize(s.LogBytes), s.LogRecords)
	case logDamaged:
		return "damaged: " + s.LogError
	}
	how := "not cleanly unmounted, nothing to replay"
	if s.Clean {
		how = "cleanly unmounted"
	}
	return fmt.Sprintf("%s, empty; %s", formatSize(s.LogBytes), how)
}
