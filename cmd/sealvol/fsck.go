package main

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mountserver"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/doublecrypt"
)

type fsckOptions struct {
	key          keyFlags
	metadataOnly bool
	anchorFile   string
	json         bool

	opens bool // set by checkVolume: a damaged volume can still be opened for reading
}

func fsckCommand() *cobra.Command {
	var o fsckOptions
	c := &cobra.Command{
		Use:   "fsck --key-file FILE [--json] DEVICE",
		Short: "Check a volume",
		Long: `Read an unmounted volume completely, verify every byte, and report each problem. fsck
never writes to the device. Reading a damaged range of a file fails with an I/O error.
Everything else can be mounted or copied out (sealvol cp).

Three states are not damage, and fsck prints only a note. If the log waits for replay,
the next mount replays it. If a crash interrupted a change of the keys between the two
copies of the header, the next read-write mount completes it. If the volume is being
restored, fsck checks what is there, but not yet whether names and inodes match.

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
	f.BoolVar(&o.metadataOnly, "metadata-only", false, "check the structure, but not the contents of files")
	f.StringVar(&o.anchorFile, "anchor-file", "", "compare the volume with the anchor in this file (see mount)")
	f.BoolVar(&o.json, "json", false, "print the report as JSON")
	return c
}

// fsckReport is the JSON of fsck.
type fsckReport struct {
	Device       string        `json:"device"`
	Checked      bool          `json:"checked"`
	Error        string        `json:"error,omitempty"` // the reason if it could not be checked
	UUID         string        `json:"uuid,omitempty"`
	Clean        bool          `json:"clean"`
	NeedsReplay  bool          `json:"needsReplay"`
	Restoring    bool          `json:"restoring,omitempty"`
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
	// ReservedBytes is the part of UsedBytes that files have reserved but not written.
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
	switch {
	case o.json:
		err = writeJSON(w, &r)
	default:
		err = r.text(w, o.opens)
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
		rep, err := checkV1(dev, path, cred, o)
		o.opens = err == nil && !rep.Clean && opensV1(dev, cred)
		return rep, err
	}
	bar := newProgress("check")
	defer bar.end()
	rep, err := check.Run(dev, check.Options{Credential: cred, Data: !o.metadataOnly, Anchor: anchor, Progress: bar.set})
	if err != nil {
		return nil, o.key.explain(volumeError(dev, path, err))
	}
	o.opens = !rep.Clean && opensV2(dev, cred)
	return rep, nil
}

// opensV2 tries to open a damaged volume for reading, as `sealvol cp` does.
func opensV2(dev device.Device, cred crypto.Credential) bool {
	v, err := volume.Open(dev, volume.Options{Credential: cred, ReadOnly: true, Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		discard(v)
	}
	return err == nil
}

// opensV1 does the same for format v1.
func opensV1(dev device.Device, cred crypto.Credential) bool {
	v, err := mountserver.OpenV1(dev, cred, doublecrypt.Options{ReadOnly: true, Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		discard(v)
	}
	return err == nil
}

const sectorBytes = device.SectorBytes

func (r *fsckReport) fill(c *check.Report) {
	r.Checked, r.Clean, r.NeedsReplay, r.Restoring, r.Generation = true, c.Clean, c.NeedsReplay, c.Restoring, c.Generation
	if c.ID != (crypto.UUID{}) { // it is unknown if the header is damaged
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

// sayProblems prints each problem once, with the number of times that it occurs.
func sayProblems(w io.Writer, prefix string, problems []fsckProblem) {
	times := make(map[fsckProblem]int, len(problems))
	for _, p := range problems {
		times[p]++
	}
	for _, p := range problems {
		n := times[p]
		if n == 0 {
			continue // printed before
		}
		delete(times, p)
		again := ""
		if n > 1 {
			again = fmt.Sprintf(" (%d times)", n)
		}
		say(w, "%s: %s: %s%s\n", prefix, printable(p.Where), printable(p.What), again)
	}
}

// text prints the report. opens tells whether the volume can be opened for reading.
func (r *fsckReport) text(w io.Writer, opens bool) error {
	out := bufio.NewWriter(w)
	sayProblems(out, r.Device, r.Problems)
	if more := r.ProblemCount - len(r.Problems); more > 0 {
		say(out, "%s: and %d more problems\n", r.Device, more)
	}
	sayProblems(out, r.Device+": note", r.Notes)
	state := "clean"
	switch {
	case !r.Clean:
		state = fmt.Sprintf("DAMAGED, %d problems", r.ProblemCount)
	case r.Restoring:
		state = "being restored and incomplete; what is there is clean"
	case r.NeedsReplay:
		state = "clean; the log waits for replay at the next mount"
	}
	reserved := ""
	if n := r.Counts.ReservedBytes; n > 0 {
		reserved = fmt.Sprintf(" (%s of it reserved)", formatSize(int64(n)))
	}
	say(out, "%s: %s; generation %d, %d inodes, %d names, %s used%s, %s free\n", r.Device, state, r.Generation,
		r.Counts.Inodes, r.Counts.Names, formatSize(int64(r.Counts.UsedBytes)), reserved, formatSize(int64(r.Counts.FreeBytes)))
	switch {
	case !r.Clean && opens:
		say(os.Stderr, "  copy the device before anything else; then run `sealvol cp` to copy out the intact files\n")
	case !r.Clean:
		say(os.Stderr, "  copy the device before anything else; the volume cannot be opened, so restore the data from a backup or from a copy of the device made before the damage\n")
	}
	return out.Flush()
}

// existingAnchor is readAnchor for commands that only check. The file must exist.
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
