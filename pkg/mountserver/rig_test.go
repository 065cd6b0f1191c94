package mountserver_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/mountertest"
	"github.com/sealvol/sealvol/pkg/mountserver"
	"github.com/sealvol/sealvol/pkg/mountserver/mounts"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/fusefs"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// deadline is when the mounts of a test are aborted.
const deadline = time.Minute

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		var err error
		switch os.Args[1] {
		case "server": // started by a mounter
			err = mounter.RunServer(context.Background(), mountserver.ForMounter(&slog.LevelVar{}))
		case "alone":
			err = serveAlone(os.Args[2], os.Args[3])
		case "detach":
			err = detachLog()
		default:
			os.Exit(m.Run())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// testKey returns the key of all volumes here. Each call creates it anew, because it is erased.
func testKey() []byte { return bytes.Repeat([]byte{7}, mounter.KeyBytes) }

type credential interface {
	crypto.Credential
	crypto.Recipient
}

func newCredential() credential {
	k, err := crypto.NewKey(testKey())
	if err != nil {
		panic(err)
	}
	return crypto.SecretCredential(k)
}

// serveAlone does what `sealvol mount --foreground` does.
func serveAlone(path, dir string) error {
	dev, err := device.Open(path, device.OpenOptions{})
	if err != nil {
		return err
	}
	cred := newCredential()
	defer cred.Erase()
	signals := mountserver.Signals()
	s, err := mountserver.Open(context.Background(), mountserver.Options{Device: dev, Keys: []crypto.Credential{cred}, FormatV1: true})
	if err != nil {
		return err
	}
	return s.MountAndServe(mountserver.Mount{Dir: dir, Options: fusefs.MountOptions{Source: path}, Signals: signals})
}

// door is one of the two ways to serve a volume.
type door struct {
	t       *testing.T
	dir     string // of the test
	mnt     string
	client  control.Client
	log     string
	process *os.Process  // nil if a mounter started it
	ended   <-chan error // its error, when it has ended
	// unmount ends the mount and waits for its server; the error is that of the server.
	unmount func() error
}

// doors runs a test for a server that makes its own mount, and for one that a mounter starts as an
// unprivileged user.
func doors(t *testing.T, test func(t *testing.T, start func(path string) *door)) {
	for name, start := range map[string]func(d *door, path string){"alone": startAlone, "mounter": startMounter} {
		t.Run(name, func(t *testing.T) {
			dir := guardedDir(t)
			test(t, func(path string) *door {
				d := newDoor(t, dir)
				start(d, path)
				return d
			})
		})
	}
}

// guardedDir returns a directory whose mounts are aborted at the deadline.
func guardedDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	mountertest.Guard(t, dir, deadline)
	return dir
}

func newDoor(t *testing.T, dir string) *door {
	t.Helper()
	d := &door{t: t, dir: dir, mnt: filepath.Join(dir, "mnt"), log: filepath.Join(dir, "log")}
	if err := os.Mkdir(d.mnt, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	return d
}

func (d *door) logFile() *os.File {
	f, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		f.Close()
		if b, _ := os.ReadFile(d.log); d.t.Failed() {
			d.t.Logf("log:\n%s", b)
		}
	})
	return f
}

// context ends with the deadline of the test's mounts.
func (d *door) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	d.t.Cleanup(cancel)
	return ctx
}

func startAlone(d *door, path string) {
	cmd := exec.Command("/proc/self/exe", "alone", path, d.mnt)
	cmd.Stderr = d.logFile()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Wait()
		close(ended)
	}()
	d.waitServing(ended)
	d.process, d.ended = cmd.Process, ended
	d.unmount = func() error {
		if err := mounts.Unmount(d.context(), d.mnt); err != nil && !errors.Is(err, control.ErrServer) {
			return err
		}
		return <-ended
	}
	d.cleanup(cmd.Process.Kill)
}

func startMounter(d *door, path string) {
	f := d.logFile()
	if err := os.Chmod(d.log, 0o666); err != nil {
		d.t.Fatal(err)
	}
	m, err := mounter.Open(d.context(), mounter.Options{StateDir: filepath.Join(d.dir, "state"), Command: []string{"/proc/self/exe", "server"},
		UID: 65534, GID: 65534, RuntimeDir: control.RuntimeDir(), Log: slog.New(slog.NewTextHandler(f, nil))})
	if err != nil {
		d.t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		d.t.Fatal(err)
	}
	dev := mounter.Device{Path: path, SizeBytes: st.Size, Dev: st.Dev, Ino: st.Ino}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		dev = mounter.Device{Path: path, SizeBytes: imageBytes, Rdev: st.Rdev}
	}
	keys, err := mounter.NewKeys(testKey(), nil)
	if err != nil {
		d.t.Fatal(err)
	}
	err = m.Mount(d.context(), mounter.MountRequest{Volume: "vol", Source: path, Target: d.mnt, Device: dev, Keys: keys})
	if err != nil {
		d.t.Fatal(err)
	}
	d.waitServing(nil)
	d.unmount = func() error {
		return errors.Join(m.Unmount(d.context(), mounter.UnmountRequest{Volume: "vol", Source: path, Target: d.mnt}), m.Close())
	}
	d.cleanup(func() error {
		i, err := m.Health(d.context(), "vol")
		if err == nil && i.PID > 1 {
			err = unix.Kill(i.PID, unix.SIGKILL)
		}
		return err
	})
}

// waitServing waits until the server answers.
func (d *door) waitServing(ended <-chan error) {
	d.t.Helper()
	for {
		if mounts.Status(d.mnt) == nil {
			break
		}
		select {
		case err := <-ended:
			b, _ := os.ReadFile(d.log)
			d.t.Fatalf("the server has ended: %v\n%s", err, b)
		case <-time.After(10 * time.Millisecond):
		}
	}
	c, err := control.Find(d.mnt)
	if err != nil {
		d.t.Fatal(err)
	}
	d.client = c
}

// cleanup ends the server if the test has not.
func (d *door) cleanup(kill func() error) {
	unmount := d.unmount
	done := false
	d.unmount = func() error {
		done = true
		return unmount()
	}
	d.t.Cleanup(func() {
		if done {
			return
		}
		if err := errors.Join(kill(), fusefs.Unmount(d.mnt, true)); err != nil {
			d.t.Error(err)
		}
	})
}

// reasons returns the reasons of the conditions that the server reports.
func (d *door) reasons() (all []string) {
	d.t.Helper()
	st, err := d.client.Status(d.context())
	if err != nil {
		d.t.Fatal(err)
	}
	for _, c := range st.Conditions {
		all = append(all, c.Reason)
	}
	return all
}

const imageBytes = 64 << 20

// newImage creates an image with a volume, and work fills it.
func newImage(t *testing.T, work func(v *volume.Volume)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, imageBytes)); err != nil {
		t.Fatal(err)
	}
	dev, err := device.Open(path, device.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeDevice(t, dev)
	cred := newCredential()
	defer cred.Erase()
	if err := volume.Format(dev, volume.FormatOptions{Recipient: cred, RootMode: 0o777}); err != nil {
		t.Fatal(err)
	}
	if work == nil {
		return path
	}
	v, err := volume.Open(dev, volume.Options{Credential: cred})
	if err != nil {
		t.Fatal(err)
	}
	work(v)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// put writes a file of a volume that is not mounted.
func put(t *testing.T, v *volume.Volume, name string, data []byte) {
	t.Helper()
	a, err := v.Lookup(vfs.RootIno, name)
	if errors.Is(err, vfs.ErrNotExist) {
		a, err = v.Mknod(&vfs.Req{}, vfs.RootIno, name, unix.S_IFREG|0o644, 0)
	}
	if err == nil {
		_, err = v.Write(&vfs.Req{}, a.Ino, 0, data, false)
	}
	if err == nil {
		err = v.Sync(a.Ino)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// noise returns data that cannot be compressed.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// unused returns a name that no file has.
func unused() string { return hex.EncodeToString(noise(8)) }

func closeDevice(t *testing.T, dev *device.File) {
	t.Helper()
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
}
