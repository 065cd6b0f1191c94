package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
	"github.com/sealvol/sealvol/pkg/mounter/workerstore"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore/chunkstoretest"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/job"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/snapshot/stored"
	"github.com/sealvol/sealvol/pkg/snapshot/verify"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// storedRig is a mounted volume and a store of snapshots, which the program's own job writes.
type storedRig struct {
	*snapRig
	objects chunkstore.Store // without faults
	snaps   *snapstore.Store
	t       *testing.T
}

func newStoredRig(t *testing.T) *storedRig {
	t.Helper()
	r := &storedRig{snapRig: newSnapRig(t), t: t}
	r.objects = r.store
	var err error
	if r.snaps, _, err = snapstore.Create(t.Context(), r.objects, snapstore.Options{PackBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	return r
}

// begin starts to store a snapshot.
func (r *storedRig) begin(id, base string) {
	r.t.Helper()
	if _, err := r.tryBegin(id, base); err != nil {
		r.t.Fatal(err)
	}
}

func (r *storedRig) tryBegin(id, base string) (*workerstore.End, error) {
	r.t.Helper()
	p, err := json.Marshal(job.Params{Base: base, Name: "test", Claim: "shop/db"})
	if err != nil {
		r.t.Fatal(err)
	}
	return r.snapRig.begin(workerctl.Start{ID: id, Base: base}, jobParams{Job: p})
}

func (r *storedRig) finish() (res job.Result) {
	r.t.Helper()
	st := r.untilEnd(workerctl.Succeeded)
	if err := json.Unmarshal(st.Result, &res); err != nil {
		r.t.Fatal(err)
	}
	return res
}

// open opens a stored snapshot, with nothing but the store, the tenant secret and the key.
func (r *storedRig) open(id string) *stored.Snapshot {
	r.t.Helper()
	s, err := format.ParseID(id)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx := r.t.Context()
	h, sealed, err := commit.Whole(ctx, r.objects, s)
	if err != nil {
		r.t.Fatal(err)
	}
	k, err := crypto.NewKey(bytes.Clone(r.kek))
	if err != nil {
		r.t.Fatal(err)
	}
	cred := crypto.SecretCredential(k)
	defer cred.Erase()
	b, err := r.snaps.OpenBody(ctx, h, sealed, cred)
	if err != nil {
		r.t.Fatal(err)
	}
	secret, err := crypto.NewKey(bytes.Clone(r.tenant))
	if err != nil {
		r.t.Fatal(err)
	}
	defer secret.Erase()
	tenant, err := crypto.DeriveTenantKeys(secret)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(tenant.Erase)
	sn, err := stored.Open(r.objects, tenant, h, b)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(sn.Close)
	return sn
}

// want verifies a stored snapshot, and compares its files.
func (r *storedRig) want(id string, files map[string][]byte) {
	r.t.Helper()
	sn := r.open(id)
	_, err := verify.Run(r.t.Context(), sn.VerifySource(), verify.Options{Level: verify.Data, Problem: func(p verify.Problem) { r.t.Error(p) }})
	if err != nil {
		r.t.Fatal(err)
	}
	v := sn.View(r.t.Context())
	for name, want := range files {
		a, err := v.Lookup(vfs.RootIno, name)
		if err != nil {
			r.t.Fatalf("%s: %v", name, err)
		}
		got := make([]byte, len(want)+1)
		n, err := v.Read(a.Ino, 0, got)
		if err != nil || sha256.Sum256(got[:n]) != sha256.Sum256(want) {
			r.t.Errorf("%s: %d bytes, want %d, %v", name, n, len(want), err)
		}
	}
}

// needle is in the content of all files.
const needle = "plaintext that must not leave the volume"

func (r *storedRig) write(files map[string][]byte) {
	r.t.Helper()
	for name, b := range files {
		if err := writeDurably(filepath.Join(r.path("target"), name), b); err != nil {
			r.t.Fatal(err)
		}
	}
}

// content returns random bytes that begin with the needle.
func content(rng *rand.ChaCha8, n int) []byte {
	b := make([]byte, n)
	_, _ = rng.Read(b) // never fails
	copy(b, needle)
	return b
}

// peakBytes is the most memory that a process had, or 0 if it has ended.
func peakBytes(pid int) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, s, ok := strings.Cut(string(b), "VmHWM:")
	if !ok {
		return 0
	}
	n, _ := strconv.ParseInt(strings.Fields(s)[0], 10, 64)
	return n << 10
}

// TestSnapshotStored stores snapshots of a mounted volume with the program's own job: the first one,
// one of a few changes, one whose worker is killed again and again, and one while the volume is
// written. Each is whole and has what the volume had. The store has no plaintext.
func TestSnapshotStored(t *testing.T) {
	r := newStoredRig(t)
	rng := rand.NewChaCha8([32]byte{1})
	files := map[string][]byte{"big": content(rng, 40<<20), "empty": {}}
	for i := range 200 {
		files[fmt.Sprint("secretname-", i)] = content(rng, 100+i*37)
	}
	r.write(files)
	first, second, third := newSnapshot(), newSnapshot(), newSnapshot()
	r.begin(first, "")
	res := r.finish()
	if res.Full == "" || res.Files != 202 || res.Read < 40<<20 || !strings.HasPrefix(res.Handle, "ss1") {
		t.Errorf("%+v", res)
	}
	r.want(first, files)

	files["secretname-7"] = content(rng, 5000)
	copy(files["big"][20<<20:], "changed")
	r.write(map[string][]byte{"secretname-7": files["secretname-7"]})
	r.writeAt("big", []byte("changed"), 20<<20)
	r.begin(second, first)
	if res = r.finish(); res.Full != "" || res.Read > 1<<20 || res.Base != first || res.Files != 202 {
		t.Errorf("%+v", res)
	}
	r.local(second)
	r.want(second, files)

	st := r.killed(third, second, files, rng)
	r.local(third)
	r.want(third, files)
	r.noPlaintext()
	r.again(third, second, st, files)
}

// killed stores a snapshot in a slow store, while its workers are killed. It returns the last state
// of the job.
func (r *storedRig) killed(id, base string, files map[string][]byte, rng *rand.ChaCha8) workerctl.Status {
	r.t.Helper()
	files["more"] = content(rng, 60<<20)
	r.write(map[string][]byte{"more": files["more"]})
	var puts atomic.Int64
	r.store = &chunkstoretest.Faulty{Store: r.objects, OnPut: func(ctx context.Context, _ string) error {
		puts.Add(1)
		select {
		case <-time.After(50 * time.Millisecond):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	for range 3 {
		before := puts.Load()
		r.begin(id, base)
		st := r.until("storing", func(s workerctl.Status) bool { return s.PID > 0 && puts.Load() > before+12 })
		kill(r.t, st.PID)
		r.untilEnd(workerctl.Died)
	}
	r.begin(id, base)
	peak := int64(0)
	st := r.until("ended", func(s workerctl.Status) bool {
		if s.PID > 0 && s.Outcome == workerctl.Running {
			peak = max(peak, peakBytes(s.PID))
		}
		return s.Outcome != workerctl.Running
	})
	if st.Outcome != workerctl.Succeeded || st.Progress.Step == "" {
		r.t.Errorf("%+v", st)
	}
	r.t.Logf("a worker needed at most %d MiB", peak>>20)
	if peak == 0 || peak > 192<<20 && !raceEnabled {
		r.t.Errorf("a worker needed %d MiB", peak>>20)
	}
	return st
}

// again stores a snapshot that is stored already: once of the same state, and once of another.
func (r *storedRig) again(id, base string, st workerctl.Status, files map[string][]byte) {
	t := r.t
	t.Helper()
	// Its caller has not heard of it, and asks again after the next mount.
	var done, same job.Result
	if err := json.Unmarshal(st.Result, &done); err != nil {
		t.Fatal(err)
	}
	if err := r.client.Unmount(r.ctx(), r.unmountRequest()); err != nil {
		t.Fatal(err)
	}
	r.mount()
	r.begin(id, base)
	if same = r.finish(); same.Handle != done.Handle || same.Content != done.Content || same.Read != 0 || same.Base != base || same.Files != done.Files {
		t.Errorf("%+v, and then %+v", done, same)
	}
	r.local(id)
	// Of another state: the local snapshot was deleted.
	if err := r.client.CancelSnapshot(r.ctx(), snapVolume, id); err != nil {
		t.Fatal(err)
	}
	if err := r.server().Do(r.ctx(), control.Request{Op: "snapshot-delete", Args: volumectl.SnapshotArgs{Name: workerctl.LocalName(id)}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := r.client.Unmount(r.ctx(), r.unmountRequest()); err != nil {
		t.Fatal(err)
	}
	r.mount()
	r.begin(id, base)
	if st := r.untilEnd(workerctl.Failed); !strings.Contains(st.Message, "another state") {
		t.Errorf("%+v", st)
	}
	r.local()
	r.want(id, files)
}

func (r *storedRig) writeAt(name string, b []byte, off int64) {
	r.t.Helper()
	f, err := os.OpenFile(filepath.Join(r.path("target"), name), os.O_WRONLY, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, off); err != nil {
		r.t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		r.t.Fatal(err)
	}
}

// noPlaintext searches the whole store.
func (r *storedRig) noPlaintext() {
	r.t.Helper()
	n := 0
	for info, err := range r.objects.List(r.t.Context(), "", "") {
		if err != nil {
			r.t.Fatal(err)
		}
		b, err := r.objects.Get(r.t.Context(), info.Key, nil, int(info.Bytes))
		if err != nil {
			r.t.Fatal(err)
		}
		for _, s := range [][]byte{[]byte(needle[:16]), []byte("secretname"), []byte("shop/db"), r.tenant, r.kek, r.key} {
			if bytes.Contains(b, s) || strings.Contains(info.Key, string(s)) {
				r.t.Errorf("%q in %s", s, info.Key)
			}
		}
		n++
	}
	if n < 10 {
		r.t.Errorf("the store has only %d objects", n)
	}
}
