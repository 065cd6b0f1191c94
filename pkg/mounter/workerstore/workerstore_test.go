package workerstore

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore/storerpc"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// TestRights: a worker can write its snapshot, and nothing that concerns another one: it cannot
// forget it, cannot void it, and cannot take its lease. All through a socket.
func TestRights(t *testing.T) {
	ctx := t.Context()
	below := chunkstore.NewMemory()
	s, other := format.NewID(), format.NewID()
	if _, err := below.Put(ctx, "p/"+format.SnapKey(other, format.CardPart), []byte("card of another")); err != nil {
		t.Fatal(err)
	}
	e, err := Serve(ctx, below, Rights("p/", s))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.FileConn(e.Worker)
	if err != nil {
		t.Fatal(err)
	}
	c := storerpc.NewClient(conn, storerpc.ClientOptions{})
	defer func() { _ = c.Close() }()
	w, err := commit.Begin(ctx, c, s, commit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Renew(ctx); err != nil {
		t.Error(err)
	}
	for _, class := range []format.Class{format.Pack, format.Page} {
		if _, err := w.Put(ctx, class, []byte("x"), format.SumOf([]byte("x"))); err != nil {
			t.Error(err)
		}
	}
	if err := w.Commit(ctx, &commit.Parts{Manifest: []byte("m"), Keys: []byte("k"), Card: []byte("a card of one snapshot")}); err != nil {
		t.Error(err)
	}
	if _, err := c.Get(ctx, format.SnapKey(other, format.CardPart), nil, 100); err != nil {
		t.Errorf("others cannot be read: %v", err)
	}
	for _, key := range []string{format.TombKey(other, format.NewID()), format.VerdictKey(other, format.NewID()), format.SnapKey(format.NewID(), format.CardPart),
		format.LeaseKey(other, format.NewID()), format.GCKey(format.NewID()), format.StoreKey, format.ClockKey, format.TenantKey(format.NewID(), 0), "anything"} {
		_, err := c.Put(ctx, key, []byte("x"))
		for op, err := range map[string]error{"put": err, "replace": c.Replace(ctx, key, []byte("x")), "delete": c.Delete(ctx, key)} {
			if !errors.Is(err, chunkstore.ErrDenied) {
				t.Errorf("%s %s: %v", op, key, err)
			}
		}
	}
	n := 0
	for info, err := range below.List(ctx, "", "") {
		if n++; err != nil || info.Key[:2] != "p/" {
			t.Errorf("%s, %v", info.Key, err)
		}
	}
	if n != 6 {
		t.Errorf("%d objects", n)
	}
}

// TestServeEnds: the end of either side is seen by the other.
func TestServeEnds(t *testing.T) {
	e, err := Serve(t.Context(), chunkstore.NewMemory(), Rights("", format.NewID()))
	if err != nil {
		t.Fatal(err)
	}
	e.Worker.Close()
	if err := e.Wait(); err != nil {
		t.Error(err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if e, err = Serve(ctx, chunkstore.NewMemory(), Rights("", format.NewID())); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := e.Wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Serve(ctx, chunkstore.NewMemory(), Rights("no slash", format.NewID())); err == nil {
		t.Error("a prefix without a slash is accepted")
	}
}
