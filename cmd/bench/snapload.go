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
	Alone    writes  `json:"alone"`
	Beside   writes  `json:"besideSnapshot"`
	Snapshot float64 `json:"snapshotSeconds"`
}

// writes are those of one phase.
type writes struct {
	PerSecond float64 `json:"perSecond"`
	P50       float64 `json:"p50Millis"`
	P99       float64 `json:"p99Millis"`
}

// loss is how much of its throughput the writer loses, in per cent.
func (r *loadRound) loss() float64 { return 100 * (1 - r.Beside.PerSecond/r.Alone.PerSecond) }

// underLoad runs a writer on the mounted volume with the large file: alone, and while a first
// snapshot of it runs.
func (b *snapBench) underLoad(ctx context.Context, rep int) error {
	s, ours := b.sets[0], b.tools[0].(*oursTool)
	if err := ours.init(ctx, s); err != nil {
		return err
	}
	defer os.RemoveAll(b.store(ours)) //nolint:errcheck // below the benchmark's directory, which is removed
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
		phase := func() (err error) {
			r.Alone, err = writeUntil(path, uint64(rep), after(alone))
			return err
		}
		beside := func() error {
			var done atomic.Bool
			var u *usage
			ended := make(chan error, 1)
			go func() {
				var err error
				u, err = ours.create(ctx, s.mnt)
				done.Store(true)
				ended <- err
			}()
			var err error
			r.Beside, err = writeUntil(path, uint64(rep)+100, done.Load)
			if err = errors.Join(err, <-ended); err == nil {
				r.Snapshot = u.seconds
			}
			return err
		}
		first, second := phase, beside
		if rep%2 == 1 {
			first, second = beside, phase
		}
		if err := first(); err != nil {
			return err
		}
		if err := second(); err != nil {
			return err
		}
		b.load = append(b.load, r)
		progress("%d/%d load: %.0f/s, p99 %.1f ms alone; %.0f/s, p99 %.1f ms beside a snapshot of %.1f s", rep+1, b.reps, r.Alone.PerSecond, r.Alone.P99,
			r.Beside.PerSecond, r.Beside.P99, r.Snapshot)
		return os.Remove(path)
	})
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
