package main

import (
	"bufio"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

type fsckOptions struct {
	key          keyFlags
	metadataOnly bool
	anchorFile   string
	json         bool
}

func fsckCommand() *cobra.Command {
	var o fsckOptions
	c := &cobra.Command{
		Use:   "fsck --key-file FILE [--json] DEVICE",
		Short: "Check a volume",
		Long: `Read all of an unmounted volume, verify every byte and report precisely what is
wrong. Nothing is ever written: damaged ranges give I/O errors when they are read,
and everything else of the volume can be mounted or copied out (sealvol cp).

A log that waits for replay is no damage: the next mount replays it. Nor is a change
of the keys that a crash has cut between the two copies of the header: a note says
so, and the next mount for writing ends it.

Exit codes:
   0  clean
   4  damaged; the problems are listed
   8  could not check: wrong key, not a volume, a newer format, in use, …
  16  wrong usage`,
		Example: `  sealvol fsck --key-file vol.key vol.img
  sealvol fsck --key-file vol.key --json vol.img | jq .problems`,
		Args: args(1, 1, "one DEVICE"),
		RunE: func(c *cobra.Command, a []string) error { return fsck(c.OutOrStdout(), &o, a[0]) },
	}
	f := c.Flags()
	o.key.register(f)
	f.BoolVar(&o.metadataOnly, "metadata-only", false, "check the structure, but do not read the contents of files")
	f.StringVar(&o.anchorFile, "anchor-file", "", "anchor that the volume has to follow from (see mount)")
	f.BoolVar(&o.json, "json", false, "print the report as JSON")
	return c
}

// fsckReport is the JSON of fsck.
type fsckReport struct {
	Device       string        `json:"device"`
	Checked      bool          `json:"checked"`
	Error        string        `json:"error,omitempty"` // why not
	UUID         string        `json:"uuid,omitempty"`
	Clean        bool          `json:"clean"`
	NeedsReplay  bool          `json:"needsReplay"`
	Generation   uint64        `json:"generation"`
	DataChecked  bool          `json:"dataChecked"`
	Problems     []fsckProblem `json:"problems"`
	ProblemCount int           `json:"problemCount"`
	Notes        []fsckProblem `json:"notes"`
	Counts       fsckCounts    `json:"counts"`
}

type fsckProblem struct {
	Where string `json:"where"`
	What  string `json:"what"`
}

type fsckCounts struct {
	Inodes    uint64 `json:"inodes"`
	Names     uint64 `json:"names"`
	Extents   uint64 `json:"extents"`
	Nodes     uint64 `json:"nodes"`
	UsedBytes uint64 `json:"usedBytes"`
	FreeBytes uint64 `json:"freeBytes"`
	// Of UsedBytes, what files have reserved and not taken.
	ReservedBytes uint64 `json:"reservedBytes"`
}

func fsck(w io.Writer, o *fsckOptions, path string) error {
	if err := o.key.one(); err != nil {
		return err
	}
	rep, err := checkVolume(o, path)
	r := fsckReport{Device: path, Problems: []fsckProblem{}, Notes: []fsckProblem{}, DataChecked: !o.metadataOnly}
	if err != nil {
		if r.Error = err.Error(); o.json {
			if err := writeJSON(w, &r); err != nil {
				return err
			}
		}
		return &codeError{err: err, code: exitUnable, hint: hint(err)}
	}
	r.fill(rep)
	if o.json {
		err = writeJSON(w, &r)
	} else {
		err = r.text(w)
	}
	if err != nil {
		return &codeError{err: err, code: exitUnable}
	}
	if !r.Clean {
		return &codeError{err: errReported, code: exitDamaged}
	}
	return nil
}

func checkVolume(o *fsckOptions, path string) (*check.Report, error) {
	cred, err := o.key.credential()
	if err != nil {
		return nil, err
	}
	defer cred.Erase()
	anchor, err := existingAnchor(o.anchorFile)
	if err != nil {
		return nil, err
	}
	dev, err := openDevice(path, true)
	if err != nil {
		return nil, err
	}
	defer discard(dev)
	if v1, err := isV1(dev); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	} else if v1 {
		return checkV1(dev, path, cred, o)
	}
	bar := newProgress("check")
	defer bar.end()
	rep, err := check.Run(dev, check.Options{Credential: cred, Data: !o.metadataOnly, Anchor: anchor, Progress: bar.set})
	if err != nil {
		return nil, volumeError(dev, path, err)
	}
	return rep, nil
}

const sectorBytes = device.SectorBytes

func (r *fsckReport) fill(c *check.Report) {
	r.Checked, r.Clean, r.NeedsReplay, r.Generation = true, c.Clean, c.NeedsReplay, c.Generation
	if c.ID != (crypto.UUID{}) { // else the header is damaged
		r.UUID = c.ID.String()
	}
	for _, p := range c.Problems {
		r.Problems = append(r.Problems, fsckProblem{p.Where, p.What})
	}
	for _, p := range c.Notes {
		r.Notes = append(r.Notes, fsckProblem{p.Where, p.What})
	}
	r.ProblemCount = c.Total
	n := &c.Counts
	free := n.FreeBlocks + n.FreedBlocks
	reserved := min(n.ReservedBlocks, free)
	r.Counts = fsckCounts{n.Inodes, n.Names, n.Extents, n.Nodes, (n.UsedBlocks + reserved) * sectorBytes, (free - reserved) * sectorBytes, reserved * sectorBytes}
}

func (r *fsckReport) text(w io.Writer) error {
	out := bufio.NewWriter(w)
	for _, p := range r.Problems {
		say(out, "%s: %s: %s\n", r.Device, printable(p.Where), printable(p.What))
	}
	if more := r.ProblemCount - len(r.Problems); more > 0 {
		say(out, "%s: and %d problems more\n", r.Device, more)
	}
	for _, p := range r.Notes {
		say(out, "%s: note: %s: %s\n", r.Device, printable(p.Where), printable(p.What))
	}
	state := "clean"
	switch {
	case !r.Clean:
		state = fmt.Sprintf("DAMAGED, %d problems", r.ProblemCount)
	case r.NeedsReplay:
		state = "clean; the log waits for replay at the next mount"
	}
	reserved := ""
	if n := r.Counts.ReservedBytes; n > 0 {
		reserved = fmt.Sprintf(" (%s of it reserved)", formatSize(int64(n)))
	}
	say(out, "%s: %s; generation %d, %d inodes, %d names, %s used%s, %s free\n", r.Device, state, r.Generation,
		r.Counts.Inodes, r.Counts.Names, formatSize(int64(r.Counts.UsedBytes)), reserved, formatSize(int64(r.Counts.FreeBytes)))
	if !r.Clean {
		say(os.Stderr, "  make a copy of the device first; `sealvol cp` copies out what can be read. If it refuses the volume, put back a copy or a snapshot from before\n")
	}
	return out.Flush()
}

// existingAnchor is readAnchor for commands that only check: the file must be there.
func existingAnchor(path string) (*volume.Anchor, error) {
	if path == "" {
		return nil, nil
	}
	a, err := readAnchor(path)
	if err == nil && a == nil {
		err = fmt.Errorf("read the anchor: %w", &os.PathError{Op: "open", Path: path, Err: os.ErrNotExist})
	}
	return a, err
}
