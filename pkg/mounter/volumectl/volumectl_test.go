package volumectl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

// credential derives a key from one character.
func credential(t testing.TB, c string) volume.Key {
	t.Helper()
	k, err := crypto.ParseKeyFile([]byte(strings.Repeat(c, 32)))
	if err != nil {
		t.Fatal(err)
	}
	s := crypto.SecretCredential(k)
	t.Cleanup(s.Erase)
	return volume.Key{Recipient: s, Credential: s}
}

// serve formats and opens a new volume and answers for it.
func serve(t *testing.T) (control.Client, *volume.Volume, device.Device) {
	t.Helper()
	dev := device.NewMem(80 << 20)
	key := credential(t, "a")
	if err := volume.Format(dev, volume.FormatOptions{Recipient: key.Recipient}); err != nil {
		t.Fatal(err)
	}
	v, err := volume.Open(dev, volume.Options{Credential: key.Credential})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	s := &Server{Volume: v, Name: "v"}
	go func() { done <- control.Serve(ctx, l, s.Mux()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = v.Close() // fails after the volume was shredded
	})
	return control.Client{Path: path}, v, dev
}

// ask makes a request with keys, given as pairs of role and character.
func ask(t *testing.T, c control.Client, op string, args, result any, keys ...string) error {
	t.Helper()
	r := control.Request{Op: op, Args: args}
	if len(keys) > 0 {
		f, err := NewKeyFile()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, k := range keys {
			role := KeyOld
			if k[0] == '+' {
				role = KeyNew
			}
			if err := f.Add(role, KindSecret, strings.NewReader(strings.Repeat(k[1:], 32))); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Seal(); err != nil {
			t.Fatal(err)
		}
		r.File = f.File
	}
	return FromServer(c.Do(t.Context(), r, result))
}

// TestCurrentKeyLate: if the caller of a request hangs up while the volume is frozen, the request
// is not executed after the thaw: the keys may be outdated by then, and the new one discarded.
func TestCurrentKeyLate(t *testing.T) {
	c, v, _ := serve(t)
	f, err := v.Freeze(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Thaw()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString(strings.Repeat("b", 32) + strings.Repeat("a", 32)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: c.Path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	line := fmt.Sprintf("{\"op\":%q}\n", control.KeyCurrent)
	if _, _, err := conn.WriteMsgUnix([]byte(line), unix.UnixRights(int(r.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil { // gives up, but still receives when the server has noticed
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || !strings.Contains(string(got), "error") {
		t.Fatalf("answer %q, %v", got, err)
	}
	f.Thaw()
	if _, err := v.AddKey(credential(t, "c")); err != nil { // runs after everything that waited
		t.Fatal(err)
	}
	if !v.OpenedBy(credential(t, "a").Credential) || v.OpenedBy(credential(t, "b").Credential) {
		t.Fatal("the keys of a caller that gave up took effect")
	}
}

func TestKeyRequests(t *testing.T) {
	c, v, dev := serve(t)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	is := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) || !errors.Is(err, control.ErrServer) {
			t.Fatalf("%v, want %v", err, want)
		}
	}
	var ch KeyChange
	ok(ask(t, c, "key-add", nil, &ch, "+b"))
	if ch.Slot != 1 || !ch.Added {
		t.Fatalf("%+v", ch)
	}
	is(ask(t, c, "key-add", nil, nil, "+b"), volume.ErrKeyExists)
	is(ask(t, c, "key-add", nil, nil), control.ErrServer)
	is(ask(t, c, "key-add", nil, nil, "+b", "+c"), control.ErrServer)
	is(ask(t, c, "key-rotate", nil, nil, "-x", "+c"), volume.ErrWrongKey)
	ok(ask(t, c, "key-rotate", nil, &ch, "-b", "+c"))
	is(ask(t, c, "key-remove", KeyRemove{Slot: 7}, nil), volume.ErrNoSuchKey)
	is(ask(t, c, "key-rotate-data", RotateData{Wait: true}, nil, "-a"), volume.ErrKeyMissing)
	var rot Rotation
	ok(ask(t, c, "key-rotate-data", RotateData{Wait: true, BytesPerSecond: -1}, &rot, "-a", "-c"))
	if rot.Phase != "none" || len(rot.Epochs) != 1 || rot.Epochs[0] != 2 {
		t.Fatalf("%+v", rot)
	}
	ok(ask(t, c, "key-remove", KeyRemove{Slot: 0}, &ch))
	is(ask(t, c, "key-remove", KeyRemove{Slot: ch.Removed[0]}, nil), volume.ErrNoSuchKey)
	is(ask(t, c, "key-remove", KeyRemove{Slot: 2}, nil), volume.ErrLastKey)
	var l KeyList
	ok(ask(t, c, "key-list", nil, &l))
	if len(l.Slots) != 1 || l.Slots[0].Slot != 2 || l.Slots[0].Type != "secret" || l.Rotation != nil {
		t.Fatalf("%+v", l)
	}
	var a volume.Anchor
	ok(ask(t, c, "anchor", nil, &a))
	confirm := func(a volume.Anchor) error {
		return ask(t, c, "anchor-confirm", struct {
			Anchor volume.Anchor `json:"anchor"`
		}{a}, nil)
	}
	ok(confirm(a))
	b := a
	b.Generation += 100
	is(confirm(b), control.ErrServer)
	if err := volume.VerifyAnchor(dev, credential(t, "c").Credential, &a); err != nil {
		t.Fatal(err)
	}
	is(ask(t, c, "key-shred", KeyShred{Volume: "other"}, nil), control.ErrServer)
	var r volume.ShredReceipt
	ok(ask(t, c, "key-shred", KeyShred{Volume: v.ID().String()}, &r))
	if len(r.Slots) != 2 || r.Volume != v.ID().String() {
		t.Fatalf("%+v", r)
	}
	is(ask(t, c, "key-add", nil, nil, "+d"), volume.ErrShredded)
}
