package volume

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// ErrNoDiscard means that the device does not support discard.
var ErrNoDiscard = device.ErrNotSupported

const (
	// minDiscard is the shortest run, in blocks, that a mounted volume discards. Shorter ones cost
	// the device more than they gain.
	minDiscard = 16
	// maxDiscards bounds the queue. What does not fit is left to Trim.
	maxDiscards = 1 << 16
)

// discarder discards, in batches, blocks that commits have made reusable (I3). It discards only
// free blocks, and holds them meanwhile so that nobody allocates them (txn.Space.Hold).
type discarder struct {
	v *Volume

	mu     sync.Mutex
	runs   []layout.Run
	wake   chan struct{}
	cancel context.CancelFunc
	done   chan struct{}
}

// start enables discarding of what is freed from now on.
func (d *discarder) start() {
	v := d.v
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel, d.done, d.wake = cancel, make(chan struct{}), make(chan struct{}, 1)
	v.space.SetReused(d.push)
	go func() {
		defer close(d.done)
		for {
			select {
			case <-d.wake:
			case <-ctx.Done():
				return
			}
			err := d.discardBatch(ctx, d.take())
			if err == nil || ctx.Err() != nil || v.Failed() != nil || errors.Is(err, vfs.ErrClosed) {
				continue
			}
			if v.opts.Log != nil {
				v.opts.Log.Warn("freed space is not discarded any more", "volume", v.ID().String(), "error", err)
			}
			v.space.SetReused(nil)
			return
		}
	}()
}

func (d *discarder) end() {
	v := d.v
	if d.cancel != nil {
		d.cancel()
		<-d.done
		v.space.SetReused(nil)
	}
}

// push queues a run that became free. The caller holds Space.mu.
func (d *discarder) push(r layout.Run) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.runs) < maxDiscards {
		d.runs = append(d.runs, r)
	}
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// take empties the queue. It returns the runs in order, adjacent ones joined.
func (d *discarder) take() []layout.Run {
	d.mu.Lock()
	runs := d.runs
	d.runs = nil
	d.mu.Unlock()
	slices.SortFunc(runs, func(a, b layout.Run) int { return cmp.Compare(a.Start, b.Start) })
	out := runs[:0]
	for _, r := range runs {
		if n := len(out); n > 0 && out[n-1].Start+uint64(out[n-1].Count) == r.Start && uint64(out[n-1].Count)+uint64(r.Count) < 1<<31 {
			out[n-1].Count += r.Count
			continue
		}
		out = append(out, r)
	}
	return out
}

// discardBatch discards those parts of the runs that are still free.
func (d *discarder) discardBatch(ctx context.Context, runs []layout.Run) error {
	for _, r := range runs {
		if _, err := d.discardFree(ctx, r.Start, r.Start+uint64(r.Count), minDiscard); err != nil {
			return err
		}
	}
	return nil
}

// discardFree discards the free runs of at least minBlocks in [from, to), one region at a time. It
// returns the number of discarded blocks.
func (d *discarder) discardFree(ctx context.Context, from, to uint64, minBlocks uint32) (blocks uint64, err error) {
	for from < to {
		end := min(to, (from/layout.RegionBlocks+1)*layout.RegionBlocks)
		n, err := d.discardPart(ctx, from, end, minBlocks)
		blocks += n
		if err != nil {
			return blocks, err
		}
		from = end
	}
	return blocks, nil
}

func (d *discarder) discardPart(ctx context.Context, from, to uint64, minBlocks uint32) (blocks uint64, err error) {
	v := d.v
	if err := v.frozen.enter(ctx); err != nil { // not during a freeze
		return 0, err
	}
	defer v.frozen.leave()
	runs, err := v.space.Hold(from, to, minBlocks)
	if err != nil {
		return 0, err
	}
	defer v.space.Release(runs)
	for _, r := range runs {
		if err := v.store.Dev.Discard(int64(r.Start)*layout.BlockBytes, int64(r.Count)*layout.BlockBytes); err != nil {
			return blocks, err
		}
		blocks += uint64(r.Count)
	}
	return blocks, nil
}

// TrimOptions configures Trim as the fields of FITRIM do. The zero value trims everything.
type TrimOptions struct {
	Offset    int64 // bytes from the start of the device
	Length    int64 // bytes; 0: to the end
	MinLength int64 // bytes of the shortest run worth discarding; 0: one block
	// Progress is called with the bytes examined so far and their total.
	Progress func(done, total uint64)
}

// Trim discards free space and returns the number of discarded bytes. It reads only maps of free
// space, region by region, and skips regions whose summary has no long run. Afterwards the device,
// and anybody who has it, knows which blocks are free.
func (v *Volume) Trim(ctx context.Context, opts TrimOptions) (bytes uint64, err error) {
	if err := v.writable(); err != nil {
		return 0, err
	}
	if opts.Offset < 0 || opts.Length < 0 || opts.MinLength < 0 {
		return 0, vfs.ErrInvalid
	}
	ctx, end, err := v.background.begin(ctx, "trim")
	if err != nil {
		return 0, err
	}
	defer end()
	const block = layout.BlockBytes
	stop := v.blocks.Load()
	start := min((uint64(opts.Offset)+block-1)/block, stop)
	if opts.Length > 0 {
		stop = min(stop, (uint64(opts.Offset)+uint64(opts.Length))/block)
	}
	shortest := max(uint64(opts.MinLength)+block-1, block) / block
	if shortest > layout.RegionBlocks {
		return 0, nil // no run is longer than a region
	}
	for at := start; at < stop; {
		idx, ok, err := v.space.RegionWith(at/layout.RegionBlocks, uint32(shortest))
		if err != nil {
			return bytes, txn.Wrap(err)
		}
		if at = max(at, idx*layout.RegionBlocks); !ok || at >= stop {
			break
		}
		to := min(stop, (idx+1)*layout.RegionBlocks)
		n, err := v.background.discards.discardFree(ctx, at, to, uint32(shortest))
		bytes += n * block
		if err != nil {
			return bytes, txn.Wrap(err)
		}
		at = to
		if opts.Progress != nil {
			opts.Progress((at-start)*block, (stop-start)*block)
		}
	}
	return bytes, nil
}
