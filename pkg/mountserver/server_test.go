package mountserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/doublecrypt"
	"github.com/sealvol/sealvol/pkg/volume/fusefs"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/vfstest"
)

// slowVolume is a volume whose Close waits.
type slowVolume struct {
	*vfstest.MemFS
	goOn chan struct{}
	err  error
}

func (v *slowVolume) Failed() error { return nil }
func (v *slowVolume) Close() error  { <-v.goOn; return v.err }

// TestEndWaitsForClose: whatever ended serving, a caller of End gets its answer only when the
// volume is closed, and learns the result.
func TestEndWaitsForClose(t *testing.T) {
	failed := errors.New("last commit failed")
	for _, how := range []string{"unmounted", "aborted", "End", "context"} {
		synctest.Test(t, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "device")
			if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
				t.Fatal(err)
			}
			dev, err := device.Open(path, device.OpenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			v := &slowVolume{vfstest.NewMemFS(), make(chan struct{}), failed}
			s := &Server{opts: Options{Device: dev}, log: slog.New(slog.DiscardHandler), base: v, endView: func() {}, stop: make(chan struct{}), ended: make(chan struct{})}
			served := make(chan error, 1)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := s.wait(ctx, served, nil, nil); !errors.Is(err, failed) {
					t.Errorf("%s: Serve: %v", how, err)
				}
			})
			switch how {
			case "unmounted":
				served <- nil
			case "aborted":
				served <- errors.New("aborted")
			case "context":
				cancel()
			}
			synctest.Wait()
			told := make(chan error, 1)
			go func() { told <- s.End(t.Context()) }()
			synctest.Wait()
			select {
			case err := <-told:
				t.Errorf("%s: told %v before the volume was closed", how, err)
			default:
			}
			close(v.goOn)
			if err := <-told; !errors.Is(err, failed) {
				t.Errorf("%s: End: %v", how, err)
			}
			wg.Wait()
		})
	}
}

// TestEndInUse: a mount that is in use stays.
func TestEndInUse(t *testing.T) {
	s := &Server{detach: func() error { return control.WithCode(control.CodeBusy, ErrInUse) }, stop: make(chan struct{}), ended: make(chan struct{})}
	if err := s.End(t.Context()); !errors.Is(err, ErrInUse) {
		t.Error(err)
	}
	select {
	case <-s.stop:
		t.Error("serving ends")
	default:
	}
}

// TestSpaceRetryPassesOn: spaceRetry does not hide the optional interfaces of the volume.
// Otherwise, the writers that a freeze blocks would occupy all handlers.
func TestSpaceRetryPassesOn(t *testing.T) {
	var r vfs.FS = &spaceRetry{FS: &volume.Volume{}}
	if _, ok := vfs.As[vfs.Parker](r); !ok {
		t.Error("no Parker")
	}
	r = &spaceRetry{FS: &doublecrypt.Volume{}}
	if _, ok := vfs.As[vfs.InoReuser](r); !ok {
		t.Error("no InoReuser")
	}
	if _, ok := vfs.As[vfs.Parker](r); ok {
		t.Error("a Parker that is none")
	}
}

// gone is a block device of a given size.
type fakeSize struct {
	block bool
	size  int64
	err   error
}

func (f fakeSize) IsBlock() bool        { return f.block }
func (f fakeSize) Size() (int64, error) { return f.size, f.err }

func TestDeviceGoneCases(t *testing.T) {
	for _, c := range []struct {
		dev  fakeSize
		want int
	}{{fakeSize{true, 1, nil}, 0}, {fakeSize{true, 0, nil}, 1}, {fakeSize{true, 0, os.ErrClosed}, 1}, {fakeSize{false, 0, nil}, 0}} {
		if got := deviceGone(c.dev); len(got) != c.want {
			t.Errorf("%+v: %+v", c.dev, got)
		}
	}
}

// TestMemoryOfFreeze: what a freeze makes wait is within the limit on memory.
func TestMemoryOfFreeze(t *testing.T) {
	const active, parked = 32, 128 // handlers of fusefs.Server
	if least := int64(2*active+parked) * fusefs.MaxDataBytes; beyondVolume < least+16<<20 {
		t.Errorf("%d bytes beyond the volume, but requests may take %d", int64(beyondVolume), least)
	}
}

// lockedMemory is how much memory of this process is locked, as that of keys is.
func lockedMemory(t *testing.T) (kiB int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmLck:")
	if _, err := fmt.Sscan(rest, &kiB); err != nil {
		t.Fatal(err)
	}
	return kiB
}

// TestKeyThatDoesNotParse: if one key cannot be read, the other one does not stay in memory.
func TestKeyThatDoesNotParse(t *testing.T) {
	before := lockedMemory(t)
	var o Options
	first := make([]byte, mounter.KeyBytes)
	if keys, err := o.parseKeys(first, []byte("short")); err == nil || keys != nil || o.Keys != nil || o.Current != nil {
		t.Error(keys, err)
	}
	if after := lockedMemory(t); after > before {
		t.Errorf("%d KiB of keys were not erased", after-before)
	}
	k := keys(t, 7)
	if _, err := o.parse(mounter.ServeConfig{Keys: k, Instance: "malformed"}); err == nil {
		t.Error("a malformed instance was accepted")
	}
	if strings.Trim(string(k.KEK()), "\x00") != "" {
		t.Error("a key that was not read stays in memory")
	}
}

// TestMounterErrorKinds: an error is of its kind, whatever its text begins with, and says so once.
func TestMounterErrorKinds(t *testing.T) {
	for _, e := range mounterErrors {
		for _, err := range []error{e.from, fmt.Errorf("%s: %w", e.to.Error(), e.from), fmt.Errorf("%w: %w", e.to, e.from)} {
			got := mounterError(err)
			if !errors.Is(got, e.to) || !errors.Is(got, e.from) {
				t.Errorf("%v: not %v", got, e.to)
			}
			if !errors.Is(e.from, e.to) && strings.Count(got.Error(), e.to.Error()) > 1 && !strings.Contains(e.from.Error(), e.to.Error()) {
				t.Errorf("says it twice: %v", got)
			}
		}
	}
}

// TestMemoryLimit: with both ways to serve, the process stays within the volume's memory and some
// more.
func TestMemoryLimit(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	for memory, want := range map[int64]int64{0: volume.DefaultMemory + beyondVolume, 64 << 20: 64<<20 + beyondVolume} {
		debug.SetMemoryLimit(1 << 40)
		_ = ForMounter(nil)(t.Context(), config(t, blankDevice(t), func(c *mounter.ServeConfig) { c.MemoryBytes = memory }))
		if got := debug.SetMemoryLimit(-1); got != want {
			t.Errorf("a mounter's, of %d: %d", memory, got)
		}
		debug.SetMemoryLimit(1 << 40)
		// As early as when the volume is opened, because that replays its log.
		if _, err := Open(t.Context(), Options{MemoryBytes: memory, Device: openDevice(t, blankDevice(t))}); err == nil {
			t.Error("opened a blank device")
		}
		if got := debug.SetMemoryLimit(-1); got != want {
			t.Errorf("alone, of %d: %d", memory, got)
		}
	}
}

const testBytes = 64 << 20

func blankDevice(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "device")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, testBytes)); err != nil {
		t.Fatal(err)
	}
	return path
}

func openDevice(t *testing.T, path string) *device.File {
	t.Helper()
	dev, err := device.Open(path, device.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

func closeDevice(t *testing.T, dev *device.File) {
	t.Helper()
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
}

// secret derives a key from a byte.
func secret(t *testing.T, b byte) *crypto.Key {
	t.Helper()
	raw := make([]byte, mounter.KeyBytes)
	for i := range raw {
		raw[i] = b
	}
	k, err := crypto.NewKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// config is a mounter's request for a device, with a key of sevens.
func config(t *testing.T, path string, change func(c *mounter.ServeConfig)) mounter.ServeConfig {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := mounter.ServeConfig{Volume: "vol", Device: f, Keys: keys(t, 7)}
	if change != nil {
		change(&c)
	}
	return c
}

func keys(t *testing.T, b byte) mounter.Keys {
	t.Helper()
	raw := make([]byte, mounter.KeyBytes)
	for i := range raw {
		raw[i] = b
	}
	k, err := mounter.NewKeys(raw, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestRefusals: each refusal of a mounter's request has the kind that its callers distinguish.
func TestRefusals(t *testing.T) {
	format := func(t *testing.T, path string) {
		dev := openDevice(t, path)
		defer closeDevice(t, dev)
		c := crypto.SecretCredential(secret(t, 7))
		defer c.Erase()
		if err := volume.Format(dev, volume.FormatOptions{Recipient: c}); err != nil {
			t.Fatal(err)
		}
	}
	formatV1 := func(t *testing.T, path string) {
		dev := openDevice(t, path)
		defer closeDevice(t, dev)
		k, err := crypto.NewDoublecryptKey(secret(t, 7).Bytes())
		if err != nil {
			t.Fatal(err)
		}
		defer k.Erase()
		if err := doublecrypt.Format(dev, k, 4096, testBytes/4096, doublecrypt.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		make   func(t *testing.T, path string)
		change func(c *mounter.ServeConfig)
		want   error
		text   string
	}{
		"blank":              {nil, nil, mounter.ErrBlank, "blank"},
		"blank, read-only":   {nil, func(c *mounter.ServeConfig) { c.Format, c.ReadOnly = &mounter.Format{}, true }, mounter.ErrBlank, "blank"},
		"no key":             {format, func(c *mounter.ServeConfig) { c.Keys = mounter.Keys{} }, mounter.ErrNoKey, "key"},
		"another key":        {format, func(c *mounter.ServeConfig) { c.Keys = keys(t, 8) }, mounter.ErrWrongKey, "key"},
		"malformed instance": {format, func(c *mounter.ServeConfig) { c.Instance = "x" }, mounter.ErrInvalid, "instance"},
		"malformed anchor":   {format, func(c *mounter.ServeConfig) { c.Anchor = "x" }, mounter.ErrInvalid, "anchor"},
		"format v1":          {formatV1, nil, mounter.ErrForeign, "format v1"},
		"format v1 over v2": {func(t *testing.T, path string) {
			format(t, path)
			formatV1(t, path)
			dev := openDevice(t, path)
			defer closeDevice(t, dev)
			if _, err := volume.ReadHeader(dev); err != nil {
				t.Fatal("nothing of v2 is left:", err)
			}
		}, func(c *mounter.ServeConfig) { c.Format = &mounter.Format{} }, mounter.ErrForeign, "format v1"},
		"something else": {func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(strings.Repeat("else", testBytes/4)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, func(c *mounter.ServeConfig) { c.Format = &mounter.Format{} }, mounter.ErrForeign, "it holds"},
	} {
		t.Run(name, func(t *testing.T) {
			path := blankDevice(t)
			if c.make != nil {
				c.make(t, path)
			}
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			err = ForMounter(nil)(t.Context(), config(t, path, c.change))
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v, want %v", err, c.want)
			}
			kinds := 0
			for _, k := range []error{mounter.ErrBlank, mounter.ErrNoKey, mounter.ErrWrongKey, mounter.ErrForeign, mounter.ErrInvalid, mounter.ErrDamaged, mounter.ErrRolledBack} {
				if errors.Is(err, k) {
					kinds++
				}
			}
			if kinds != 1 {
				t.Errorf("%d kinds: %v", kinds, err)
			}
			if after, err := os.ReadFile(path); err != nil || string(before) != string(after) {
				t.Error("the device was written to", err)
			}
			closeDevice(t, openDevice(t, path)) // the device is released
		})
	}
}
