package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"
)

// loadRound is what a writer on a mounted volume reached without and with a snapshot running.
type loadRound struct {
	Alone     writes `json:"alone"`
	SameDisk  beside `json:"storeOnTheSameDisk"`
	Elsewhere beside `json:"storeInMemory"`
}

// beside is a phase with a snapshot running.
type beside struct {
	writes
	Snapshot float64 `json:"snapshotSeconds"`
}

// writes are those of one phase.
type writes struct {
	PerSecond float64 `json:"perSecond"`
	P50       float64 `json:"p50Millis"`
	P99       float64 `json:"p99Millis"`
}

// loss is how much of its throughput the writer loses, in per cent.
func (r *loadRound) loss(b *beside) float64 { return 100 * (1 - b.PerSecond/r.Alone.PerSecond) }

// underLoad runs a writer on the mounted volume with the large file: alone, while a first snapshot of
// it is stored on the same disk, and while one is stored in memory, as a store on another machine
// uses neither this disk nor its cache.
func (b *snapBench) underLoad(ctx context.Context, rep int) error {
	s := b.sets[0]
	memory, err := os.MkdirTemp("/dev/shm", "sealvol-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(memory) //nolint:errcheck // nothing else can be done
	return b.mounted(ctx, s, func() error {
		path := filepath.Join(s.mnt, "written")
		if err := os.WriteFile(path, make([]byte, 64<<20), 0o600); err != nil {
			return err
		}
		var r loadRound
		alone := 5 * time.Second
		if b.short {
			alone = time.Second
		}
		phases := []func() error{
			func() (err error) {
				r.Alone, err = writeUntil(path, uint64(rep), after(alone))
				return err
			},
			func() (err error) {
				r.SameDisk, err = b.besideSnapshot(ctx, path, uint64(rep)+100, &oursTool{b: b, dir: filepath.Join(b.work, "store-load")}, s.mnt)
				return err
			},
			func() (err error) {
				r.Elsewhere, err = b.besideSnapshot(ctx, path, uint64(rep)+200, &oursTool{b: b, dir: filepath.Join(memory, "store")}, s.mnt)
				return err
			},
		}
		for i := range phases {
			if err := phases[(i+rep)%len(phases)](); err != nil {
				return err
			}
		}
		b.load = append(b.load, r)
		progress("%d/%d load: %.0f/s, p99 %.1f ms alone; %.0f/s, p99 %.1f ms beside a snapshot of %.1f s to the same disk; %.0f/s, p99 %.1f ms beside one of %.1f s to memory", rep+1, b.reps,
			r.Alone.PerSecond, r.Alone.P99, r.SameDisk.PerSecond, r.SameDisk.P99, r.SameDisk.Snapshot, r.Elsewhere.PerSecond, r.Elsewhere.P99, r.Elsewhere.Snapshot)
		return os.Remove(path)
	})
}

// besideSnapshot runs the writer while a first snapshot runs.
func (b *snapBench) besideSnapshot(ctx context.Context, path string, seed uint64, ours *oursTool, mnt string) (r beside, err error) {
	defer os.RemoveAll(ours.store()) //nolint:errcheck // below directories that are removed
	if err := ours.init(ctx, nil); err != nil {
		return r, err
	}
	var done atomic.Bool
	var u *usage
	ended := make(chan error, 1)
	go func() {
		var err error
		u, err = ours.create(ctx, mnt)
		done.Store(true)
		ended <- err
	}()
	r.writes, err = writeUntil(path, seed, done.Load)
	if err = errors.Join(err, <-ended); err == nil {
		r.Snapshot = u.seconds
	}
	return r, err
}

// writeUntil writes random blocks of 4 KiB and syncs each.
func writeUntil(path string, seed uint64, done func() bool) (w writes, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return w, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	rng, buf := rand.New(rand.NewPCG(seed, 4)), make([]byte, 4096)
	rand.NewChaCha8([32]byte{4}).Read(buf) //nolint:errcheck // never fails
	var took []time.Duration
	start := time.Now()
	for !done() {
		begin := time.Now()
		if _, err := f.WriteAt(buf, rng.Int64N(64<<20/4096)*4096); err != nil {
			return w, err
		}
		if err := f.Sync(); err != nil {
			return w, err
		}
		took = append(took, time.Since(begin))
	}
	all := time.Since(start)
	if len(took) == 0 {
		return w, nil
	}
	slices.Sort(took)
	at := func(q float64) float64 { return took[int(q*float64(len(took)-1))].Seconds() * 1000 }
	return writes{PerSecond: float64(len(took)) / all.Seconds(), P50: at(0.5), P99: at(0.99)}, nil
}
