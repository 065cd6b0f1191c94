package volume

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Power goes at any write of a rotation under load, again and again; in the end
// the volume holds a state that it went through, and the old keys open nothing.
func TestCrashRotation(t *testing.T) {
	seed := *crashSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	runs := 6
	if testing.Short() {
		runs = 2
	}
	for range runs {
		crashRotation(t, seed)
		seed++
	}
}

// rotationRun is a volume in a rotation, whose power goes again and again.
type rotationRun struct {
	t      *testing.T
	seed   uint64
	rng    *rand.Rand
	dev    *device.Mem
	r      *crashRun
	all    []crypto.Credential
	mounts [][16]byte

	under, ended int // cuts that found a rotation in progress, and after it
}

func (x *rotationRun) fail(format string, args ...any) {
	x.t.Helper()
	x.t.Fatalf("-crash.seed=%d: %s", x.seed, fmt.Sprintf(format, args...))
}

func crashRotation(t *testing.T, seed uint64) {
	x := &rotationRun{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 31)), dev: device.NewMem(80 << 20)}
	mustFormat(t, x.dev)
	second := secretKey(t, 2)
	x.all = []crypto.Credential{testKey(t).Credential, second.Credential}
	v := mustOpen(t, x.dev, Options{CommitInterval: -1, Memory: minMemory})
	_, err := v.AddKey(second)
	ok(t, err)
	x.r = &crashRun{v: v, rng: x.rng, states: []modelState{{files: map[string][]byte{}}}, inos: map[string]vfs.Ino{}}
	for range 150 {
		ok(t, x.r.step())
	}
	ok(t, v.Sync(vfs.RootIno))
	stolen := oldKeys(t, v)
	x.mounts = [][16]byte{mountOf(v)}
	mustClose(t, v)
	x.r.synced = len(x.r.states) - 1
	defer func() { t.Logf("-crash.seed=%d: %d cuts of a rotation, %d after it", seed, x.under, x.ended) }()
	for cut := range 25 {
		x.cut(cut)
	}
	c := x.all[x.rng.IntN(2)]
	if err := x.mount(c, 25, true); err != nil {
		x.fail("without a cut: %v", err)
	}
	for _, c := range x.all {
		if err := cleanWith(x.dev, c); err != nil {
			x.fail("%v", err)
		}
	}
	got, err := theft(x.dev, x.all[0], stolen, x.mounts)
	if err != nil || len(got) > 0 {
		x.fail("the old keys open %v %v", got[:min(len(got), 20)], err)
	}
}

// cut mounts the volume, cuts the power somewhere, and goes on with what that left.
func (x *rotationRun) cut(cut int) {
	c := x.all[x.rng.IntN(2)]
	x.dev.CutAfter(1 + x.rng.IntN([]int{20, 60, 120, 250, 1500}[x.rng.IntN(5)]))
	if err := x.mount(c, cut, false); err != nil && !errors.Is(err, device.ErrCrashed) && !errors.Is(err, vfs.ErrReadOnly) {
		x.fail("cut %d: %v", cut, err)
	}
	x.dev.Cut()
	x.dev = x.dev.Crash(device.CrashMode(x.rng.IntN(3)), x.rng)
	if x.rng.IntN(3) == 0 {
		img := x.dev.Clone()
		ok(x.t, opens(x.t, img, x.all[x.rng.IntN(2)]))
	}
}

// mount opens the volume, starts a rotation if it needs one, and changes files. The last
// mount waits for the end of the rotation.
func (x *rotationRun) mount(c crypto.Credential, cut int, last bool) error {
	v, err := openWith(x.t, x.dev, c, false)
	if err != nil {
		return err
	}
	defer func() { _ = v.Close() }() // cut, as a rule
	x.mounts = append(x.mounts, mountOf(v))
	var opErr error
	switch _, epochs := v.Keys(); {
	case len(epochs) == 2:
		x.under++
	case epochs[0] == 1 || cut < 20:
		_, opErr = v.RotateDataKey(RotateOptions{Keys: x.all, BytesPerSecond: -1})
	default:
		x.ended++
	}
	got, err := readTree(v)
	if err == nil {
		err = x.r.adopt(v, got, x.fail)
	}
	if err != nil {
		return errors.Join(opErr, err)
	}
	for i := 0; opErr == nil && i < 60; i++ {
		opErr = x.r.step()
	}
	if opErr == nil && (last || x.rng.IntN(2) == 0) {
		opErr = x.wait(v)
	}
	if opErr == nil {
		opErr = v.Sync(vfs.RootIno)
	}
	if opErr == nil {
		x.r.synced = len(x.r.states) - 1
	}
	return opErr
}

// wait waits for the end of the rotation.
func (x *rotationRun) wait(v *Volume) error {
	s, err := v.WaitRotation(x.t.Context(), nil)
	if err != nil || s.Phase == RotationNone {
		return err
	}
	if x.dev.Alive() {
		x.fail("%+v", s)
	}
	return device.ErrCrashed // what it could not read
}

// cutRotation is the volume of TestCutRotation.
type cutRotation struct {
	all    []crypto.Credential
	second Key
	stolen []*crypto.EpochKeys
	want   modelState
	blocks int
}

// The same, after each single write and flush of a small one, from its beginning
// to the end.
func TestCutRotation(t *testing.T) {
	x := &cutRotation{second: secretKey(t, 2)}
	x.all = []crypto.Credential{testKey(t).Credential, x.second.Credential}
	c := cutCase{step: 7, prepare: x.prepare}
	c.change = func(t *testing.T, dev device.Device) error {
		v, err := openWith(t, dev, x.all[0], false)
		if err != nil {
			return err
		}
		return crashClose(v, x.rotate(t, v))
	}
	c.judge = func(dev *device.Mem, done bool) error { return x.judge(t, dev, done) }
	c.run(t, 3)
}

func (x *cutRotation) prepare(t *testing.T, dev *device.Mem) {
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	_, err := v.AddKey(x.second)
	ok(t, err)
	for i, n := range []int{10, 5000, 200000} {
		a, err := v.Mknod(crashReq, vfs.RootIno, fmt.Sprint("f", i), 0o600, 0)
		ok(t, err)
		_, err = v.Write(crashReq, a.Ino, 0, []byte(strings.Repeat("x", n)), false)
		ok(t, err)
		share(t, v, a.Ino, 0, writeFile(t, v, fmt.Sprint("g", i), nil), 0, uint64(n))
	}
	x.want, err = readTree(v)
	ok(t, err)
	x.stolen = oldKeys(t, v)
	x.blocks = len(dataBlocks(t, v))
	mustClose(t, v)
}

// rotate rotates a volume that was not rotated yet, and waits for the end.
func (x *cutRotation) rotate(t *testing.T, v *Volume) error {
	if _, epochs := v.Keys(); len(epochs) == 1 && epochs[0] == 1 {
		if _, err := v.RotateDataKey(RotateOptions{Keys: x.all, BytesPerSecond: -1}); err != nil {
			return err
		}
	}
	s, err := v.WaitRotation(t.Context(), nil)
	if err == nil && s.Phase != RotationNone {
		err = fmt.Errorf("%+v", s)
	}
	return err
}

// judge wants an image to open with all keys, to hold what it held, and the rotation to
// end.
func (x *cutRotation) judge(t *testing.T, dev *device.Mem, done bool) error {
	for _, k := range x.all {
		if err := opens(t, dev, k); err != nil {
			return err
		}
	}
	v, err := openWith(t, dev, x.all[1], false)
	if err != nil {
		return err
	}
	if _, epochs := v.Keys(); done && (len(epochs) != 1 || epochs[0] != 2) {
		return fmt.Errorf("ended, and epochs are %v", epochs)
	}
	got, err := readTree(v)
	if err == nil && !sameState(got, x.want) {
		err = errors.New(diffState(got, x.want))
	}
	err = errors.Join(err, x.rotate(t, v))
	if n := len(dataBlocks(t, v)); err == nil && n != x.blocks {
		err = fmt.Errorf("data takes %d blocks, %d before", n, x.blocks)
	}
	if err := errors.Join(err, v.Close()); err != nil {
		return err
	}
	if opened, err := theft(dev, x.all[0], x.stolen, nil); err != nil || len(opened) > 0 {
		return fmt.Errorf("the old keys open %v %w", opened, err)
	}
	return cleanWith(dev, x.all[0])
}

// adopt finds the state that a crash left among those that are possible, and goes
// on from there.
func (r *crashRun) adopt(v *Volume, got modelState, fail func(string, ...any)) error {
	for i := len(r.states) - 1; i >= r.synced; i-- {
		if sameState(got, r.states[i]) {
			r.v, r.states, r.synced = v, []modelState{r.states[i]}, 0
			r.inos, r.dirs = map[string]vfs.Ino{}, nil
			return r.learn(vfs.RootIno, "")
		}
	}
	fail("a state that never was, or an old one; against the last: %s", diffState(got, r.state()))
	return nil
}

// learn finds the inodes of all names.
func (r *crashRun) learn(dir vfs.Ino, prefix string) error {
	var ents []vfs.Dirent
	if err := r.v.ReadDir(dir, 0, false, func(d vfs.Dirent, _ *vfs.Attr) bool { ents = append(ents, d); return true }); err != nil {
		return err
	}
	for _, d := range ents {
		p := prefix + d.Name
		r.inos[p] = d.Ino
		if c, known := r.state().files[p]; known && c == nil {
			r.dirs = append(r.dirs, p)
			if err := r.learn(d.Ino, p+"/"); err != nil {
				return err
			}
		}
	}
	return nil
}
