package csi_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/csi"
)

// keeper is a backend.FormatKeeper whose calls can fail.
type keeper struct {
	mu       sync.Mutex
	states   map[string]backend.FormatState // guarded by mu, as is the rest
	ask, set error
	kept     []backend.FormatState
}

func newKeeper() *keeper { return &keeper{states: map[string]backend.FormatState{}} }

// FormatState implements backend.FormatKeeper.
func (k *keeper) FormatState(_ context.Context, id string) (backend.FormatState, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ask != nil {
		return backend.FormatNone, k.ask
	}
	return k.states[id], nil
}

// KeepFormat implements backend.FormatKeeper.
func (k *keeper) KeepFormat(_ context.Context, id string, s backend.FormatState) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.set != nil {
		return k.set
	}
	if k.states[id] != backend.FormatDone {
		k.states[id] = s
	}
	k.kept = append(k.kept, s)
	return nil
}

func (k *keeper) fail(ask, set error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ask, k.set = ask, set
}

func (k *keeper) put(id string, s backend.FormatState) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.states[id] = s
}

func (k *keeper) state(id string) backend.FormatState {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.states[id]
}

// image reads or, given some, writes the first bytes of a volume's image.
func (v *vol) image(head ...string) string {
	v.r.t.Helper()
	f, err := os.OpenFile(v.r.path("local/images/"+v.id+".img"), os.O_RDWR, 0)
	if err != nil {
		v.r.t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 4096)
	if len(head) > 0 {
		copy(b, head[0])
		if _, err := f.WriteAt(b, 0); err != nil {
			v.r.t.Fatal(err)
		}
	}
	if _, err := f.ReadAt(b, 0); err != nil {
		v.r.t.Fatal(err)
	}
	return strings.TrimRight(string(b), "\x00")
}

// wantBlank fails if anything was formatted.
func (v *vol) wantBlank() {
	v.r.t.Helper()
	if b := v.image(); b != "" {
		v.r.t.Fatalf("the device holds %q", b)
	}
}

var errDown = errors.New("it does not answer")

// TestNothingTwice: a volume is formatted once, whatever happens to its device.
func TestNothingTwice(t *testing.T) {
	k, other := newKeeper(), newKeeper()
	r := newRigWith(t, csi.Options{SelfAttach: true, Formats: []backend.FormatKeeper{k, other}})
	v := r.create("pvc", writer)

	// Nothing is formatted unless it is known that the volume never was, and this can be recorded.
	k.fail(errDown, nil)
	wantCode(t, v.stage(), codes.Unavailable)
	v.wantBlank()
	k.fail(nil, errDown)
	wantCode(t, v.stage(), codes.Unavailable)
	v.wantBlank()
	k.fail(nil, nil)
	wantCode(t, v.stage(), codes.OK)
	if k.state(v.id) != backend.FormatDone || other.state(v.id) != backend.FormatDone {
		t.Fatal("not recorded")
	}
	wantCode(t, v.unstage(), codes.OK)

	// A wiped device is lost data, whichever keeper knows it; also if it is read-only.
	v.image("")
	for _, knows := range []*keeper{k, other} {
		k.put(v.id, backend.FormatNone)
		other.put(v.id, backend.FormatNone)
		knows.put(v.id, backend.FormatDone)
		wantCode(t, v.stage(), codes.DataLoss)
		other.fail(errDown, nil)
		k.fail(errDown, nil)
		knows.fail(nil, nil)
		wantCode(t, v.stage(), codes.DataLoss)
		k.fail(nil, nil)
		other.fail(nil, nil)
		v.wantBlank()
	}
	v.cap = capability(reader)
	err := v.stage()
	wantCode(t, err, codes.DataLoss)
	if !strings.Contains(err.Error(), "Nothing was formatted") || !strings.Contains(err.Error(), "delete the volume and create another one") {
		t.Error(err)
	}
	v.cap = capability(writer)

	// So is a device that now holds something else. A device without a record that holds something
	// belongs to somebody else.
	v.image("precious")
	wantCode(t, v.stage(), codes.DataLoss)
	w := r.create("other", writer)
	w.image("precious")
	wantCode(t, w.stage(), codes.FailedPrecondition)
	k.put(w.id, backend.FormatBegun) // an interrupted format does not look like this
	wantCode(t, w.stage(), codes.FailedPrecondition)
	if v.image() != "precious" || w.image() != "precious" {
		t.Fatal("it was formatted")
	}

	// A copy counts as formatted from its creation on.
	c := r.create("copy", writer)
	c.context["keyVolume"] = v.id
	wantCode(t, c.stage(), codes.DataLoss)
	c.wantBlank()
}

// TestMadeInSteps: after "begun" is recorded, whatever an interrupted format leaves is formatted
// again. Nothing is acknowledged before "formatted" is recorded.
func TestMadeInSteps(t *testing.T) {
	k := newKeeper()
	r := newRigWith(t, csi.Options{SelfAttach: true, Formats: []backend.FormatKeeper{k}})
	v := r.create("pvc", writer)
	k.put(v.id, backend.FormatBegun) // interrupted before anything was written
	wantCode(t, v.stage(), codes.OK)
	wantCode(t, v.unstage(), codes.OK)

	w := r.create("half", writer)
	w.image("sealvol half ")
	wantCode(t, w.stage(), codes.FailedPrecondition)
	k.put(w.id, backend.FormatBegun)
	wantCode(t, w.stage(), codes.OK)
	wantCode(t, w.unstage(), codes.OK)
	w.image("sealvol half ")
	wantCode(t, w.stage(), codes.DataLoss)

	// The last step fails: the stage is not acknowledged, again and again, although the volume is
	// mounted.
	x := r.create("last", writer)
	r.setHook(func(step string) {
		if step == "keep formatted" {
			k.fail(nil, errDown)
		}
	})
	for range 2 {
		wantCode(t, x.stage(), codes.Unavailable)
	}
	r.setHook(nil)
	k.fail(nil, nil)
	if k.state(x.id) != backend.FormatBegun {
		t.Fatal(k.state(x.id))
	}
	wantCode(t, x.stage(), codes.OK)
	if k.state(x.id) != backend.FormatDone {
		t.Fatal(k.state(x.id))
	}
	wantCode(t, x.unstage(), codes.OK)
}

// TestMadeBefore: a volume that is older than its records stays usable while they cannot be
// written, and is recorded once they can.
func TestMadeBefore(t *testing.T) {
	k := newKeeper()
	r := newRigWith(t, csi.Options{SelfAttach: true, Formats: []backend.FormatKeeper{k}})
	v := r.create("pvc", writer)
	wantCode(t, v.stage(), codes.OK)
	wantCode(t, v.unstage(), codes.OK)
	k.put(v.id, backend.FormatNone)
	k.fail(nil, errDown)
	wantCode(t, v.stage(), codes.OK)
	if !strings.Contains(r.log.String(), "cannot record that the volume is formatted") {
		t.Error("nobody was told")
	}
	k.fail(errDown, errDown) // nor is its state known: this might be the last step of the first format
	wantCode(t, v.stage(), codes.Unavailable)
	k.fail(nil, nil)
	wantCode(t, v.stage(), codes.OK)
	if k.state(v.id) != backend.FormatDone {
		t.Error("not kept")
	}
	wantCode(t, v.unstage(), codes.OK)
	v.image("")
	wantCode(t, v.stage(), codes.DataLoss)
}

// TestPublishMakesNothing: a publish mounts a volume again whose mount server has died. If the
// device was wiped in the meantime, nothing is formatted, even if there are no records.
func TestPublishMakesNothing(t *testing.T) {
	r := newRigWith(t, csi.Options{SelfAttach: true})
	v := r.create("pvc", multiWriter)
	wantCode(t, v.stage(), codes.OK)
	wantCode(t, v.publishTo("a"), codes.OK)
	h, err := r.mounter.Health(r.ctx(), v.id)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(h.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for h.Alive {
		if h, err = r.mounter.Health(r.ctx(), v.id); err != nil {
			t.Fatal(err)
		}
	}
	v.image("")
	wantCode(t, v.publishTo("a"), codes.DataLoss)
	v.wantBlank()
	wantCode(t, v.unpublish("a"), codes.OK)
	wantCode(t, v.unstage(), codes.OK)
}
