package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
	"github.com/sealvol/sealvol/pkg/mounter/workerstore"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore/chunkstoretest"
)

// TestSnapshotChaos stores snapshots while workers, mount servers, mounters and the process that
// serves the store die in random order, and the volume is written. Each snapshot is whole in the end
// and has the state that its local snapshot has; nothing that claims to be whole is not.
func TestSnapshotChaos(t *testing.T) {
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	r := newStoredRig(t)
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	seed := rng.Uint64()
	t.Logf("seed %d", seed)
	rng = rand.New(rand.NewPCG(seed, 1))
	c := &chaos{storedRig: r, rng: rng}
	r.store = &chunkstoretest.Faulty{Store: r.objects, OnPut: c.onPut}
	bytes := rand.NewChaCha8([32]byte{byte(seed)})
	files := map[string][]byte{}
	base := ""
	for round := range rounds {
		for range 5 {
			files[fmt.Sprint("file-", rng.IntN(20))] = content(bytes, rng.IntN(3<<20))
		}
		r.write(files)
		id := newSnapshot()
		c.run(id, base)
		r.local(id)
		r.want(id, files)
		t.Logf("round %d: %v", round, c.did)
		base = id
	}
	r.noPlaintext()
}

type chaos struct {
	*storedRig
	rng  *rand.Rand
	puts atomic.Int64
	end  *workerstore.End
	did  []string
}

func (c *chaos) onPut(ctx context.Context, _ string) error {
	c.puts.Add(1)
	select {
	case <-time.After(30 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run stores a snapshot, in spite of all.
func (c *chaos) run(id, base string) {
	c.t.Helper()
	c.did = nil
	for n := 0; ; n++ {
		if n > 40 {
			c.t.Fatalf("it never ends: %v", c.did)
		}
		st, err := c.client.SnapshotStatus(c.ctx(), snapVolume)
		switch {
		case err == nil && st.ID == id && st.Outcome == workerctl.Stopped: // nothing here is an error of the job
			c.t.Fatalf("%v: %s", c.did, st.Message)
		case errors.Is(err, mounter.ErrNoWorker), err == nil && (st.ID != id || st.Outcome.Resumable()):
			c.did = append(c.did, "start")
			c.start(id, base)
		case err != nil:
			c.t.Fatal(err)
		case st.Outcome == workerctl.Succeeded:
			return
		case st.Outcome != workerctl.Running:
			c.t.Fatalf("%+v", st)
		}
		c.wait(1 + c.rng.IntN(6))
		if n < 8 {
			c.harm(id)
		}
		// The application goes on, and what it writes is not in the snapshot.
		if err := writeDurably(filepath.Join(c.path("target"), "other"), fmt.Appendf(nil, "%d", n)); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *chaos) start(id, base string) {
	c.t.Helper()
	var err error
	if c.end, err = c.tryBegin(id, base); err != nil {
		c.t.Fatal(err)
	}
}

// wait waits until so many objects more were stored, or the job is done.
func (c *chaos) wait(n int) {
	before := c.puts.Load()
	c.until("storing", func(s workerctl.Status) bool {
		return c.puts.Load() >= before+int64(n) || s.Outcome != workerctl.Running || s.NoStore
	})
}

// harm kills something.
func (c *chaos) harm(id string) {
	c.t.Helper()
	st, err := c.client.SnapshotStatus(c.ctx(), snapVolume)
	if err != nil {
		c.t.Fatal(err)
	}
	what := []string{"worker", "server", "mounter", "store"}[c.rng.IntN(4)]
	c.did = append(c.did, what)
	switch what {
	case "worker":
		if st.PID > 0 && st.Outcome == workerctl.Running {
			kill(c.t, st.PID)
			c.gone(st.PID)
			c.awaitEnd(st.PID)
		}
	case "server":
		server, err := c.server().Status(c.ctx())
		if err != nil {
			c.t.Fatal(err)
		}
		kill(c.t, server.PID)
		c.gone(server.PID)
		c.mount()
	case "mounter":
		c.rig.kill("mounter")
		c.rig.start("mounter", 0)
	case "store":
		_ = c.end.Close()
		c.end = c.serve(id)
		err := c.client.AttachStore(c.ctx(), snapVolume, id, c.end.Worker)
		if err != nil && !errors.Is(err, mounter.ErrNoWorker) && !errors.Is(err, mounter.ErrServer) { // it may just have ended
			c.t.Fatal(err)
		}
		c.end.Worker.Close()
	}
	if _, err := os.Stat(c.path("target/other")); err != nil && !errors.Is(err, os.ErrNotExist) {
		c.t.Fatal(err)
	}
}

// awaitEnd waits until the mounter knows that a worker has ended.
func (c *chaos) awaitEnd(pid int) {
	c.until("ended", func(s workerctl.Status) bool { return s.PID != pid })
}
