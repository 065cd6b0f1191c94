package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/reading"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/snapshot/verify"
	"github.com/sealvol/sealvol/pkg/snapshot/view"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

type snapshotVerify struct {
	storedFlags
	key     keyFlags
	level   string
	scratch string
	sample  string
	round   int
	json    bool
}

var verifyLevels = map[string]verify.Level{"present": verify.Present, "metadata": verify.Metadata, "data": verify.Data, levelRestore: verify.Data}

// levelRestore is verify.Data, and then a restore.
const levelRestore = "restore"

func snapshotVerifyCommand() *cobra.Command {
	var o snapshotVerify
	c := &cobra.Command{
		Use:   "verify --store URL [--tenant-file FILE --key-file FILE] [--level LEVEL] SNAPSHOT",
		Short: "Check a stored snapshot",
		Long: `Check a stored snapshot. Each level includes those before it:

  present   every object that the snapshot needs is in the store and has its length; by
            an id or a handle, this needs no key
  metadata  all names and attributes are read, and a restore would accept them
  data      the content of all files is read (default)
  restore   everything is restored into a scratch volume, which is read and compared; it
            is a file without a name in --scratch, encrypted with a random key, and needs
            as much space as the content

--sample reads only a part of the content, such as 5%: that of some objects. Each day,
it is another part, so that checking every day covers everything in time. --round N
chooses the part.

All problems are reported, with the objects and the files that they concern. If there
are any, the exit code is 4.`,
		Example: `  sealvol snapshot verify --store file:///backup --tenant-file tenant.key --key-file vol.key latest
  sealvol snapshot verify --store file:///backup --level present 4f1c2ab09d3e`,
		Args: args(1, 1, "one SNAPSHOT"),
		RunE: func(c *cobra.Command, a []string) error {
			ctx, cancel := interruptible(c)
			defer cancel()
			return o.run(ctx, c.OutOrStdout(), a[0])
		},
	}
	f := c.Flags()
	o.register(f)
	o.key.register(f)
	o.rate.registerDownload(f)
	f.StringVar(&o.level, "level", "data", "what to check: present, metadata, data or restore")
	f.StringVar(&o.scratch, "scratch", "", "with --level restore: directory for the scratch volume (default: that for temporary files)")
	f.StringVar(&o.sample, "sample", "", "part of the content to read, such as 5%")
	f.IntVar(&o.round, "round", -1, "with --sample: which part, from 0 (default: by the day)")
	jsonFlag(c, &o.json)
	return c
}

// options checks the flags.
func (o *snapshotVerify) options() (v verify.Options, err error) {
	level, ok := verifyLevels[o.level]
	if !ok {
		return v, usageError(fmt.Errorf("--level %s: must be present, metadata, data or restore", printable(o.level)))
	}
	if o.scratch != "" && o.level != levelRestore {
		return v, usageError(errors.New("--scratch is only for --level restore"))
	}
	v = verify.Options{Level: level}
	if o.sample == "" {
		return v, nil
	}
	p, err := strconv.ParseFloat(strings.TrimSuffix(o.sample, "%"), 64)
	if err != nil || !strings.HasSuffix(o.sample, "%") || !(p >= 0.01 && p <= 100) {
		return v, usageError(fmt.Errorf("--sample %s: give a percentage from 0.01%% to 100%%", printable(o.sample)))
	}
	if o.level != "data" {
		return v, usageError(errors.New("--sample is a part of the content: it is only for --level data"))
	}
	v.Rounds, v.Round = int(100/p+0.5), o.round
	if o.round < 0 {
		v.Round = int(time.Now().Unix() / (24 * 60 * 60))
	}
	v.Round %= v.Rounds
	return v, nil
}

// verifyReport is the JSON of verify.
type verifyReport struct {
	Snapshot     string              `json:"snapshot"`
	Level        string              `json:"level"`
	Rounds       int                 `json:"rounds,omitempty"` // parts of the content
	Round        int                 `json:"round"`            // the part that was read
	Packs        uint64              `json:"packs"`
	Inodes       uint64              `json:"inodes"`
	Chunks       uint64              `json:"chunks"`
	Bytes        uint64              `json:"bytes"`
	Problems     []verifyProblem     `json:"problems"`
	ProblemCount uint64              `json:"problemCount"`
	Requests     chunkstore.Requests `json:"requests"`
}

type verifyProblem struct {
	Object string `json:"object,omitempty"`
	Inode  uint64 `json:"inode,omitempty"`
	Path   string `json:"path,omitempty"`
	Offset uint64 `json:"offset,omitempty"`
	Error  string `json:"error"`
}

// maxProblems is the most problems that are reported one by one.
const maxProblems = 1000

func (o *snapshotVerify) run(ctx context.Context, w io.Writer, name string) error {
	opts, err := o.options()
	if err == nil {
		err = o.wantStore("")
	}
	if err != nil {
		return err
	}
	s, err := o.open(ctx, &o.key)
	if err != nil {
		return err
	}
	defer s.end()
	r := &verifyReport{Level: o.level, Rounds: opts.Rounds, Round: opts.Round, Problems: []verifyProblem{}}
	src, snap, err := o.source(ctx, s, name, r, opts.Level)
	if err != nil {
		return damagedIf(err)
	}
	var files *view.View // finds names for inodes
	total := uint64(0)
	if snap != nil {
		defer snap.Close()
		files, total = snap.View(ctx), snap.Body.LogicalBytes
	}
	events := newEvents(w, "verify", false) // no events in JSON: the report is one value
	defer events.end()
	if opts.Rounds > 1 {
		total /= uint64(opts.Rounds)
	}
	opts.Progress = events.verified(total)
	opts.Problem = func(p verify.Problem) {
		if len(r.Problems) < maxProblems {
			r.Problems = append(r.Problems, problemOf(p, files))
		}
	}
	rep, err := verify.Run(ctx, src, opts)
	if err == nil && o.level == levelRestore && rep.Problems == 0 {
		var problem error
		if problem, err = o.restores(ctx, s, snap, events, rep.Room); problem != nil {
			rep.Problems++
			opts.Problem(verify.Problem{Err: problem})
		}
	}
	events.end()
	if err != nil {
		return o.wrap(err)
	}
	r.Packs, r.Inodes, r.Chunks, r.Bytes, r.ProblemCount, r.Requests = rep.Packs, rep.Inodes, rep.Chunks, rep.Bytes, rep.Problems, s.meter.Requests()
	return o.report(w, r)
}

// source opens what is verified. snap is nil without a key.
func (o *snapshotVerify) source(ctx context.Context, s *stored, name string, r *verifyReport, level verify.Level) (src verify.Source, snap *reading.Snapshot, err error) {
	if level == verify.Present {
		sn, _, err := s.find(ctx, name)
		if err != nil {
			return src, nil, err
		}
		h, _, err := s.Head(ctx, sn)
		if err == nil { // without its slots, no key opens the snapshot
			_, err = s.SnapshotKeys(sn.ID).Slots(ctx)
		}
		if err != nil {
			return src, nil, o.wrap(err)
		}
		r.Snapshot = sn.ID.String()
		return verify.Source{Store: s.Objects(), Head: h}, nil, nil
	}
	var sn *snapstore.Snapshot
	if snap, sn, err = s.read(ctx, &o.key, name); err != nil {
		return src, nil, err
	}
	r.Snapshot = sn.ID.String()
	return snap.VerifySource(), snap, nil
}

// damagedIf gives an error of opening a snapshot the exit code of damage, if the store has lost or
// damaged what it is opened with: the manifest or the key slots.
func damagedIf(err error) error {
	if exitCode(err) != exitFailed {
		return err
	}
	for _, kind := range []error{snapstore.ErrLost, snapstore.ErrExchanged, snapstore.ErrKey, snapstore.ErrNoKeys, format.ErrFormat} {
		if errors.Is(err, kind) {
			return &codeError{err: err, code: exitDamaged, hint: cmp.Or(hint(err), hintRestore)}
		}
	}
	return err
}

func problemOf(p verify.Problem, files *view.View) verifyProblem {
	x := verifyProblem{Inode: p.Ino, Offset: p.Off, Error: p.Err.Error()}
	if p.Pack != (format.Name{}) {
		x.Object = p.Pack.Key()
	}
	if p.Ino != 0 && files != nil {
		if path, err := files.Path(vfs.Ino(p.Ino)); err == nil {
			x.Path = path
		}
	}
	return x
}

func (o *snapshotVerify) report(w io.Writer, r *verifyReport) error {
	if o.json {
		if err := writeJSON(w, r); err != nil {
			return err
		}
	} else {
		for i := range r.Problems {
			p := &r.Problems[i]
			where := p.Path
			if where == "" {
				where = p.Object
			}
			if where != "" {
				say(w, "%s: ", printable(where))
			}
			say(w, "%s\n", p.Error)
		}
		what := counted(r.Packs, "object") + " present"
		if o.level != "present" {
			what += ", " + countedEntries(r.Inodes) + " verified"
		}
		if o.level == "data" || o.level == levelRestore {
			what += fmt.Sprintf(", %s of content read", formatSize(int64(r.Bytes)))
		}
		if r.Rounds > 1 {
			what += fmt.Sprintf(" (part %d of %d)", r.Round+1, r.Rounds)
		}
		if o.level == levelRestore && r.ProblemCount == 0 {
			what += ",\n  restored to a scratch volume and compared"
		}
		say(w, "%s: %s\n", short(r.Snapshot), what)
	}
	if r.ProblemCount == 0 {
		return nil
	}
	if n := r.ProblemCount - uint64(len(r.Problems)); n > 0 {
		say(os.Stderr, "%d more problems are not shown\n", n)
	}
	err := fmt.Errorf("snapshot %s is damaged: %s", short(r.Snapshot), counted(r.ProblemCount, "problem"))
	return &codeError{err: o.wrap(err), code: exitDamaged,
		hint: "restore the objects from another copy of the store; files without problems can still be restored, unless names or the map are damaged; to replace the snapshot, create one with --full"}
}
