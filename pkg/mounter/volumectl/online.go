package volumectl

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// CodeWorking is the code of an answer if the requested work is running already and only one can
// run at a time.
const CodeWorking = "working"

// ScrubArgs are the arguments of "scrub". Its items are ScrubItems, its result is a ScrubResult. It
// ends when its caller hangs up.
type ScrubArgs struct {
	BytesPerSecond int64  `json:"bytesPerSecond,omitempty"` // 0: unlimited
	From           string `json:"from,omitempty"`           // the last ScrubItem.Position of an interrupted scrub
	ReadOnly       bool   `json:"readOnly,omitempty"`       // repair nothing
}

// ScrubItem is a damage, or the position of the scrub.
type ScrubItem struct {
	Damage   *Damage `json:"damage,omitempty"`
	Position string  `json:"position,omitempty"`
}

// Damage is data on the device that fails verification.
type Damage struct {
	Where  string `json:"where"`
	What   string `json:"what"`
	Mended bool   `json:"mended"`
	// Snapshot is the oldest snapshot that holds it. Head: the present state holds it, too, and the
	// names are from there.
	Snapshot string   `json:"snapshot,omitempty"`
	Head     bool     `json:"head,omitempty"`
	Inode    uint64   `json:"inode,omitempty"` // if it is in a file's content
	Path     string   `json:"path,omitempty"`
	Offset   uint64   `json:"offset,omitempty"`
	Length   uint64   `json:"length,omitempty"`
	Files    []string `json:"files,omitempty"` // some of the files that lost metadata affects
	More     int      `json:"moreFiles,omitempty"`
}

// ScrubResult is the result of a complete scrub.
type ScrubResult struct {
	BytesRead   uint64 `json:"bytesRead"`
	DamageCount int    `json:"damageCount"` // includes those for which there was no item
	MendedCount int    `json:"mendedCount"`
}

// NewDamage converts a damage.
func NewDamage(d *volume.Damage) *Damage {
	return &Damage{Where: d.Where, What: d.What, Mended: d.Mended, Snapshot: d.Snapshot, Head: d.Head, Inode: d.Ino, Path: d.Path, Offset: d.Offset, Length: d.Length, Files: d.Files, More: d.More}
}

// DefragArgs are the arguments of "defrag". Its result is a Defragged.
type DefragArgs struct {
	Path           string `json:"path,omitempty"` // in the volume; "" for all of it
	BytesPerSecond int64  `json:"bytesPerSecond,omitempty"`
}

// Defragged is the result of a defrag.
type Defragged struct {
	Files           uint64   `json:"files"`
	FilesRewritten  uint64   `json:"filesRewritten"`
	BytesRewritten  uint64   `json:"bytesRewritten"`
	BytesShared     uint64   `json:"bytesShared"`
	ExtentsBefore   uint64   `json:"extentsBefore"`
	ExtentsAfter    uint64   `json:"extentsAfter"`
	FragmentsBefore uint64   `json:"fragmentsBefore"`
	FragmentsAfter  uint64   `json:"fragmentsAfter"`
	DamagedInodes   []uint64 `json:"damagedInodes,omitempty"`
}

// TrimArgs are the arguments of "trim", in bytes, like those of FITRIM.
type TrimArgs struct {
	Offset    int64 `json:"offset,omitempty"`
	Length    int64 `json:"length,omitempty"`
	MinLength int64 `json:"minLength,omitempty"`
}

// Trimmed is the result of a trim.
type Trimmed struct {
	TrimmedBytes uint64 `json:"trimmedBytes"`
}

// FreezeArgs are the arguments of "freeze". Without Hold, the answer is a Frozen, and the freeze
// ends with a "thaw" or after Timeout. With Hold, a Frozen comes as an item, the freeze also ends
// when the caller hangs up, and the answer comes when it has ended.
type FreezeArgs struct {
	TimeoutMillis int64 `json:"timeoutMillis"` // at most an hour
	Hold          bool  `json:"hold,omitempty"`
}

// maxFreeze is the longest freeze.
const maxFreeze = time.Hour

// Frozen identifies a freeze.
type Frozen struct {
	ID uint64 `json:"id"`
}

// ThawArgs are the arguments of "thaw"; without ID it ends all freezes.
type ThawArgs struct {
	ID uint64 `json:"id,omitempty"`
}

// Thawed says how many freezes a thaw has ended; 0 if they had ended before.
type Thawed struct {
	Ended int `json:"ended"`
}

// LogLevelArgs are the arguments of "loglevel": "debug", "info", "warn" or "error".
type LogLevelArgs struct {
	Level string `json:"level"`
}

// online is the state of the requests in this file.
type online struct {
	s  *Server
	mu sync.Mutex
	// the freezes that callers asked for
	freezes map[uint64]*volume.Freeze
	last    uint64
}

// addOnline adds the requests for work on a volume in use.
func (s *Server) addOnline(m control.Mux) {
	o := &online{s: s, freezes: map[uint64]*volume.Freeze{}}
	m["scrub"], m["defrag"], m["trim"] = o.scrub, o.defrag, o.trim
	m["freeze"], m["thaw"] = o.freeze, o.thaw
	m["statistics"] = func(context.Context, *control.Call) (any, error) { return s.Volume.Statistics(), nil }
	if s.LogLevel != nil {
		m["loglevel"] = o.logLevel
	}
}

// workErr gives errors their codes.
func workErr(err error) error {
	if errors.Is(err, volume.ErrBusy) {
		return control.WithCode(CodeWorking, err)
	}
	return err
}

func (o *online) scrub(ctx context.Context, c *control.Call) (any, error) {
	var a ScrubArgs
	if err := c.Args(&a); err != nil {
		return nil, err
	}
	told := time.Now()
	rep, err := o.s.Volume.Scrub(ctx, volume.ScrubOptions{BytesPerSecond: a.BytesPerSecond, From: a.From, ReadOnly: a.ReadOnly, Progress: c.Progress,
		At: func(position func() string) {
			if time.Since(told) < time.Second {
				return
			}
			told = time.Now()
			_ = c.Item(ScrubItem{Position: position()}) // if the caller hung up, ctx ends
		}})
	if err != nil {
		return nil, workErr(err)
	}
	for i := range rep.Damages {
		if err := c.Item(ScrubItem{Damage: NewDamage(&rep.Damages[i])}); err != nil {
			return nil, err
		}
	}
	return ScrubResult{rep.Bytes, rep.Total, rep.Mended}, nil
}

func (o *online) defrag(ctx context.Context, c *control.Call) (any, error) {
	var a DefragArgs
	if err := c.Args(&a); err != nil {
		return nil, err
	}
	rep, err := Defrag(ctx, o.s.Volume, a, c.Progress)
	return rep, workErr(err)
}

// Defrag defragments a path of a volume.
func Defrag(ctx context.Context, v *volume.Volume, a DefragArgs, progress func(done, total uint64)) (*Defragged, error) {
	at := vfs.RootIno
	for _, name := range strings.Split(a.Path, "/") {
		if name == "" || name == "." {
			continue
		}
		attr, err := v.Lookup(at, name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.Path, err)
		}
		at = attr.Ino
	}
	rep, err := v.Defrag(ctx, volume.DefragOptions{Root: at, BytesPerSecond: a.BytesPerSecond, Progress: progress})
	if err != nil {
		return nil, err
	}
	d := &Defragged{Files: rep.Files, FilesRewritten: rep.Rewritten, BytesRewritten: rep.Bytes, BytesShared: rep.Shared,
		ExtentsBefore: rep.ExtentsBefore, ExtentsAfter: rep.ExtentsAfter, FragmentsBefore: rep.FragmentsBefore, FragmentsAfter: rep.FragmentsAfter}
	for _, x := range rep.Damaged {
		d.DamagedInodes = append(d.DamagedInodes, x.Ino)
	}
	return d, nil
}

func (o *online) trim(ctx context.Context, c *control.Call) (any, error) {
	var a TrimArgs
	if err := c.Args(&a); err != nil {
		return nil, err
	}
	n, err := o.s.Volume.Trim(ctx, volume.TrimOptions{Offset: a.Offset, Length: a.Length, MinLength: a.MinLength, Progress: c.Progress})
	return Trimmed{n}, workErr(err)
}

func (o *online) freeze(ctx context.Context, c *control.Call) (any, error) {
	var a FreezeArgs
	if err := c.Args(&a); err != nil {
		return nil, err
	}
	limit := time.Duration(a.TimeoutMillis) * time.Millisecond
	if a.TimeoutMillis <= 0 || a.TimeoutMillis > int64(maxFreeze/time.Millisecond) {
		return nil, control.WithCode(control.CodeMalformed, fmt.Errorf("the timeout of a freeze must be positive and at most %v", maxFreeze))
	}
	f, err := o.s.Volume.Freeze(ctx, limit)
	if err != nil {
		return nil, err
	}
	id := o.remember(f)
	if !a.Hold {
		return Frozen{id}, nil
	}
	defer f.Thaw()
	if err := c.Item(Frozen{id}); err != nil {
		return nil, err
	}
	select {
	case <-f.Ended():
		return struct{}{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// remember gives a freeze a number, and drops those that have ended.
func (o *online) remember(f *volume.Freeze) uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, old := range o.freezes {
		select {
		case <-old.Ended():
			delete(o.freezes, id)
		default:
		}
	}
	o.last++
	o.freezes[o.last] = f
	return o.last
}

func (o *online) thaw(_ context.Context, c *control.Call) (any, error) {
	var a ThawArgs
	if err := c.Args(&a); err != nil {
		return nil, err
	}
	if a.ID == 0 {
		return Thawed{o.s.Volume.Thaw()}, nil
	}
	o.mu.Lock()
	f := o.freezes[a.ID]
	o.mu.Unlock()
	if f == nil || !f.Thaw() {
		return Thawed{}, nil
	}
	return Thawed{1}, nil
}

func (o *online) logLevel(_ context.Context, c *control.Call) (any, error) {
	var a LogLevelArgs
	if err := c.Args(&a); err != nil {
		return nil, err
	}
	var l slog.Level
	if err := l.UnmarshalText([]byte(a.Level)); err != nil {
		return nil, control.WithCode(control.CodeMalformed, fmt.Errorf("log level %q: want debug, info, warn or error", a.Level))
	}
	o.s.LogLevel.Set(l)
	return struct{}{}, nil
}
