package mounter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/requestid"
)

// Options configure Run.
type Options struct {
	// StateDir keeps records, sockets and the lock; made with mode 0700. It must not be on a Sealvol volume.
	StateDir string
	// Command starts a mount server, that is a program that calls RunServer. Default: this program with "mount".
	Command []string
	// LoopCommand starts the helper for loop devices, a program that calls RunLoop. Default: this program with "loop".
	LoopCommand []string
	// Env is added to a server's environment.
	Env []string
	// UID and GID run servers as another user, 0 as this one. The user must be able to execute Command.
	UID, GID uint32
	// Cgroup is a cgroup v2 directory in which each server gets a group of its own, "" for none.
	Cgroup string
	// MemoryBytes bounds each volume's memory, 0 for the engine's default.
	MemoryBytes int64
	// RuntimeDir gets a link to each mount's control socket, by which control.Find finds it, "" for none.
	RuntimeDir string
	// MountTimeout bounds one mount (log replay included), StopTimeout the final commit of an unmount.
	// Defaults: 90 s and 60 s.
	MountTimeout, StopTimeout time.Duration
	// TakesServers says that servers are killed when this process ends, as those of a container are with its first process: when it is
	// told to end, they first write all that they have. Without it they go on.
	TakesServers bool
	// Log gets one line for each start, end and error. Default: slog.Default.
	Log *slog.Logger

	// Hook, if not nil, is called before every step that changes something. For tests.
	Hook func(step string)
}

const askTimeout = 5 * time.Second // statistics and status, answered from memory

func (o *Options) defaults() error {
	if o.StateDir == "" {
		return fmt.Errorf("%w: no state directory", ErrInvalid)
	}
	abs, err := filepath.Abs(o.StateDir)
	if err != nil {
		return err
	}
	o.StateDir = abs
	if len(o.Command) == 0 {
		o.Command = []string{"/proc/self/exe", "mount"}
	}
	if len(o.LoopCommand) == 0 {
		o.LoopCommand = []string{"/proc/self/exe", "loop"}
	}
	if o.MountTimeout == 0 {
		o.MountTimeout = 90 * time.Second
	}
	if o.StopTimeout == 0 {
		o.StopTimeout = 60 * time.Second
	}
	o.Log = requestid.Logger(o.Log)
	if o.Hook == nil {
		o.Hook = func(string) {}
	}
	return nil
}

// SocketPath is where a mounter with this state directory listens.
func SocketPath(stateDir string) string { return filepath.Join(stateDir, "mounter.sock") }

// ControlPath is the control socket (package control) of a volume's mount server.
func ControlPath(stateDir, volume string) string {
	return (&Options{StateDir: stateDir}).places(volume).control
}

// Mounter supervises mount servers. Use Open, or Run for the whole service.
type Mounter struct {
	opt  Options
	lock *os.File

	mu      sync.Mutex
	volumes map[string]*volume // guarded by mu
}

// volume is what is known of one volume. All fields but places, which do not change, and lock belong
// to the holder of lock.
type volume struct {
	places
	lock  chan struct{} // holds one token while free
	users int           // guarded by Mounter.mu: who waits for or holds the lock

	rec  *record  // nil: not mounted here
	proc *process // nil: no living server is known; with rec it has died
}

// Open takes over the state directory: servers that still live are adopted, others are remembered as
// dead until they are mounted again or unmounted.
func Open(ctx context.Context, opt Options) (*Mounter, error) {
	if err := opt.defaults(); err != nil {
		return nil, err
	}
	m := &Mounter{opt: opt, volumes: map[string]*volume{}}
	for _, d := range []string{opt.StateDir, filepath.Join(opt.StateDir, "volumes")} {
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
	}
	if err := m.own(ctx); err != nil {
		return nil, err
	}
	if err := m.adoptAll(); err != nil {
		m.lock.Close()
		return nil, err
	}
	return m, nil
}

func (m *Mounter) own(ctx context.Context) error {
	f, err := os.OpenFile(filepath.Join(m.opt.StateDir, "lock"), unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			m.lock = f
			return nil
		}
		t := time.NewTimer(50 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			f.Close()
			return fmt.Errorf("state directory %s: another mounter has it: %w", m.opt.StateDir, err)
		}
	}
}

func (m *Mounter) adoptAll() error {
	root := filepath.Join(m.opt.StateDir, "volumes")
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		r, err := loadRecord(dir)
		if errors.Is(err, fs.ErrNotExist) {
			m.sweep(dir) // a crash before the first record or after the last: nothing runs
			continue
		}
		if err != nil {
			return err
		}
		if r.Boot != bootID() { // neither processes nor mounts outlive a reboot
			m.sweep(dir)
			continue
		}
		v := m.newVolume(r.Volume)
		if v.dir != dir {
			return fmt.Errorf("%s: the record of another volume", dir)
		}
		r.places = v.places
		v.rec = &r
		if v.proc, err = adopt(r); err != nil {
			return err
		}
		m.volumes[r.Volume] = v
		if v.proc == nil {
			m.opt.Log.Warn("mount server is gone", "volume", r.Volume, "pid", r.PID)
			continue
		}
		m.opt.Log.Info("mount server adopted", "volume", r.Volume, "pid", r.PID, "descriptors", v.proc.holdsFuse())
		m.watch(r.Volume, v.proc)
	}
	return nil
}

// sweep removes a directory of which nothing is needed any more. What stays is in nobody's way, and the next start tries again.
func (m *Mounter) sweep(dir string) {
	if err := os.RemoveAll(dir); err != nil {
		m.opt.Log.Warn("state of the past not removed", "error", err)
	}
}

// Close gives the state directory up. Servers go on.
func (m *Mounter) Close() error { return m.lock.Close() }

func (m *Mounter) newVolume(id string) *volume {
	v := &volume{places: m.opt.places(id), lock: make(chan struct{}, 1)}
	v.lock <- struct{}{}
	return v
}

// acquire locks a volume, making its entry if need be. release drops entries that hold nothing.
func (m *Mounter) acquire(ctx context.Context, id string) (*volume, error) {
	m.mu.Lock()
	v := m.volumes[id]
	if v == nil {
		v = m.newVolume(id)
		m.volumes[id] = v
	}
	v.users++
	m.mu.Unlock()
	select {
	case <-v.lock:
		return v, nil
	case <-ctx.Done():
		m.leave(id, v)
		return nil, fmt.Errorf("%w: another operation runs: %w", ErrBusy, ctx.Err())
	}
}

func (m *Mounter) release(id string, v *volume) {
	empty := v.rec == nil
	m.mu.Lock()
	defer m.mu.Unlock()
	v.users--
	if empty && v.users == 0 {
		delete(m.volumes, id)
	}
	v.lock <- struct{}{}
}

func (m *Mounter) leave(id string, v *volume) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v.users--
	// Whoever holds the lock is a user too, so that with none left the fields may be read.
	if v.users == 0 && v.rec == nil {
		delete(m.volumes, id)
	}
}

func (m *Mounter) watch(id string, p *process) {
	go func() {
		<-p.dead
		m.opt.Log.Info("mount server ended", "volume", id, "pid", p.pid, "exit", exitText(p.exitError()))
	}()
}

func exitText(err error) string {
	if err == nil {
		return "0"
	}
	return err.Error()
}

// Mount mounts a volume, or finds that it is so already; with ReplaceKey its server gets the keys then. It clears away what a dead server left.
func (m *Mounter) Mount(ctx context.Context, r MountRequest) error {
	if err := r.check(); err != nil {
		return err
	}
	found, err := m.findOrMount(ctx, r)
	if err != nil || found == nil || !r.ReplaceKey || r.Keys.Empty() {
		return err
	}
	err = m.handKeys(ctx, found.ask, r.Keys)
	if err != nil && !errors.Is(err, control.ErrServer) && await(ctx, found.dead, time.Second) {
		_, err = m.findOrMount(ctx, r) // it was about to end
	}
	return err
}

// findOrMount returns the server that it found, nil if it started one.
func (m *Mounter) findOrMount(ctx context.Context, r MountRequest) (*process, error) {
	v, err := m.acquire(ctx, r.Volume)
	if err != nil {
		return nil, err
	}
	defer m.release(r.Volume, v)
	if v.rec != nil {
		if done, err := m.already(ctx, v, r); done || err != nil {
			return v.proc, err
		}
	}
	switch {
	case r.RequireRunning && v.rec == nil:
		return nil, ErrNotMounted
	case r.RequireRunning:
		return nil, ErrDead
	}
	return nil, m.mountAnew(ctx, v, r)
}

// mountAnew mounts a volume that nothing serves. The caller holds its lock.
func (m *Mounter) mountAnew(ctx context.Context, v *volume, r MountRequest) error {
	before := v.rec
	if before != nil && (before.BlockBytes > 0) != (r.Block != nil) {
		return fmt.Errorf("%w: as a raw block device or as a file system, not both", ErrConflict)
	}
	if r.Keys.Empty() {
		return ErrNoKey
	}
	var loops []loopDev
	if v.rec != nil {
		if err := m.clear(ctx, v, keep); err != nil {
			return err
		}
		loops = before.Loops
	}
	if err := m.mount(ctx, v, r, &loops); err != nil {
		if before == nil {
			return err
		}
		before.Loops = loops
		// It stays known as mounted by a server that died, so that a later publish may try again.
		before.PID, before.Start, before.Running = 0, 0, false
		v.rec = before
		return errors.Join(err, before.save())
	}
	return nil
}

// handKeys gives the keys to a server that lives. The volume's lock is not held: a frozen volume may keep the server waiting.
func (m *Mounter) handKeys(ctx context.Context, server control.Client, k Keys) error {
	ctx, cancel := context.WithTimeout(ctx, m.opt.MountTimeout)
	defer cancel()
	keys, err := k.pipe()
	if err != nil {
		return err
	}
	defer keys.Close()
	m.opt.Hook("hand keys")
	err = server.Do(ctx, control.Request{Op: control.KeyCurrent, File: keys}, nil)
	switch {
	case err == nil:
		m.opt.Hook("keys handed")
		return nil
	case control.HasCode(err, control.CodeUnknown): // of a version that keeps the keys it was started with
		return nil
	case control.HasCode(err, control.CodeWrongKey):
		return fmt.Errorf("%w, mounted as it is: %w", ErrWrongKey, err)
	}
	return fmt.Errorf("%w: keys: %w", ErrServer, err)
}

// CheckKeys gives keys to a volume's server, as Mount does with ReplaceKey: ErrWrongKey if they are not
// the volume's.
func (m *Mounter) CheckKeys(ctx context.Context, volume string, k Keys) error {
	server, err := m.server(ctx, volume)
	if err != nil {
		return err
	}
	if k.Empty() {
		return ErrNoKey
	}
	return m.handKeys(ctx, server, k)
}

// already decides whether a recorded mount is what is asked for (true), or gone (false).
func (m *Mounter) already(ctx context.Context, v *volume, r MountRequest) (bool, error) {
	if v.proc == nil || !v.proc.alive() {
		return false, nil
	}
	top, err := at(v.rec.fusePath())
	if err != nil {
		return false, err
	}
	if top != nil && top.Source == v.rec.Source && top.FSType == FSType {
		if v.rec.ReadOnly != r.ReadOnly || v.rec.Source != r.Source || v.rec.Target != r.Target || (v.rec.BlockBytes > 0) != (r.Block != nil) {
			return false, ErrConflict
		}
		done, err := m.complete(v.rec, r)
		if done || err != nil {
			return done, err
		}
		// A server that was adopted in the middle of its start, or one whose device was half way out.
		return true, m.finish(ctx, v, r)
	}
	published, err := m.published(v.rec)
	if err != nil {
		return false, err
	}
	if published {
		return false, fmt.Errorf("%w: its staging directory was unmounted, but it is in use elsewhere", ErrConflict)
	}
	return false, m.stop(ctx, v)
}

// complete tells whether nothing of a served volume is missing.
func (m *Mounter) complete(rec *record, r MountRequest) (bool, error) {
	if !rec.Running || r.Block == nil {
		return rec.Running, nil
	}
	top, err := at(rec.Target)
	if err != nil || top == nil || !isNodes(top, rec.Source) {
		return false, err
	}
	if !r.Block.ReadOnlyToo || rec.ReadOnly {
		return true, nil
	}
	devs, err := m.current(rec)
	return slices.ContainsFunc(devs, func(l loopDev) bool { return l.ReadOnly }), err
}

// What becomes of the record of a server that has ended, and of its loop devices, which pods may still have.
const (
	drop = false
	keep = true
)

// clear removes what a dead server left: its mounts, and its record.
func (m *Mounter) clear(ctx context.Context, v *volume, keepRecord bool) error {
	if v.proc != nil {
		if err := v.proc.stopHard(ctx, askTimeout); err != nil {
			return err
		}
	}
	if v.rec.BlockBytes > 0 && keepRecord {
		if err := m.findLoops(v.rec); err != nil {
			return err
		}
		m.opt.Hook("record loops")
		if err := v.rec.save(); err != nil {
			return err
		}
	} else if err := m.letGo(ctx, v.rec, true); err != nil {
		return err
	}
	m.opt.Hook("clear mount")
	if err := unmountLazily(v.rec.Source, v.rec.Target); err != nil {
		return err
	}
	if v.rec.BlockBytes > 0 {
		m.opt.Hook("clear hidden mount")
		if err := unmountLazily(v.rec.Source, v.rec.fusePath()); err != nil {
			return err
		}
		m.removeHidden(v)
	}
	m.opt.Hook("clear record")
	return m.forget(v, keepRecord)
}

// link lets control.Find find the server by its mount. A convenience: failure harms nothing.
func (m *Mounter) link(r *record) {
	if m.opt.RuntimeDir == "" {
		return
	}
	if err := os.MkdirAll(m.opt.RuntimeDir, 0o755); err != nil {
		m.opt.Log.Warn("control socket not linked", "volume", r.Volume, "error", err)
		return
	}
	err := control.LockNames(m.opt.RuntimeDir, func() error {
		top, err := at(r.fusePath())
		if err != nil || top == nil {
			return err
		}
		name := control.SocketIn(m.opt.RuntimeDir, top.Major, top.Minor)
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return os.Symlink(r.control, name)
	})
	if err != nil {
		m.opt.Log.Warn("control socket not linked", "volume", r.Volume, "error", err)
	}
}

// unlink removes the links that lead to a volume's control socket; device numbers are used again.
func (m *Mounter) unlink(v *volume) {
	err := control.LockNames(m.opt.RuntimeDir, func() (err error) {
		links, _ := filepath.Glob(filepath.Join(m.opt.RuntimeDir, "*.sock")) // the pattern is well-formed
		for _, l := range links {
			if to, rerr := os.Readlink(l); rerr == nil && to == v.control {
				err = errors.Join(err, os.Remove(l))
			}
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.opt.Log.Warn("link of a control socket not removed", "error", err)
	}
}

// forget gives up a volume that nobody serves. The record may stay, until that of another server takes its place.
func (m *Mounter) forget(v *volume, keepRecord bool) error {
	if v.group != "" {
		// Empty once the server is gone.
		if err := os.Remove(v.group); err != nil && !errors.Is(err, fs.ErrNotExist) {
			m.opt.Log.Warn("cgroup not removed", "volume", v.rec.Volume, "error", err)
		}
	}
	if m.opt.RuntimeDir != "" {
		m.unlink(v)
	}
	if !keepRecord {
		if err := os.RemoveAll(v.dir); err != nil {
			return err
		}
	}
	v.rec, v.proc = nil, nil
	return nil
}

// free finds nothing mounted at a path, after it has taken away what a mounter whose state is lost has left there.
func (m *Mounter) free(source, path string) error {
	if err := unmountLazily(source, path); err != nil {
		return err
	}
	if top, err := at(path); err != nil || top == nil {
		return err
	}
	return fmt.Errorf("%w: something else is mounted at the target", ErrConflict)
}

// mount starts a server and mounts. On failure nothing is left but the loop devices, if there were any before.
func (m *Mounter) mount(ctx context.Context, v *volume, r MountRequest, loops *[]loopDev) (err error) {
	rec := &record{places: v.places, Version: stateVersion, Volume: r.Volume, Source: r.Source, Target: r.Target,
		Device: r.Device, ReadOnly: r.ReadOnly, Boot: bootID(), Loops: *loops}
	if r.Block != nil {
		rec.BlockBytes = r.Block.SizeBytes
	}
	for _, path := range []string{r.Target, rec.fusePath()} {
		if err := m.free(r.Source, path); err != nil {
			return err
		}
	}
	v.rec = rec
	defer func() {
		if err != nil {
			// Not ctx: the clean-up must happen when the caller has gone.
			err = errors.Join(err, m.clear(context.Background(), v, len(*loops) > 0))
			*loops = rec.Loops
		}
	}()
	m.opt.Hook("record starting")
	if err := v.rec.save(); err != nil {
		return err
	}
	if err := m.makeHidden(v.rec); err != nil {
		return err
	}
	m.opt.Hook("start server")
	p, h, err := m.opt.start(ctx, r, v.places)
	if err != nil {
		return err
	}
	v.proc = p
	m.watch(r.Volume, p)
	defer h.conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = h.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := h.expect("opened"); err != nil {
		return err
	}
	v.rec.PID, v.rec.Start = p.pid, p.start
	m.opt.Hook("record pid")
	if err := v.rec.save(); err != nil {
		return err
	}
	m.opt.Hook("mount")
	if err := p.withFuse(func(f *os.File) error { return mountFuse(f, r.Source, v.rec.fusePath(), r.ReadOnly, r.Block != nil) }); err != nil {
		return err
	}
	m.link(v.rec)
	m.opt.Hook("tell server")
	if err := sendLine(h.conn, step{Step: "mounted"}); err != nil {
		return fmt.Errorf("%w: %w", ErrServer, err)
	}
	if err := h.expect("serving"); err != nil {
		return err
	}
	tune(v.rec.fusePath())
	if err := m.finish(ctx, v, r); err != nil {
		return err
	}
	m.opt.Log.InfoContext(ctx, "mounted", "volume", r.Volume, "pid", p.pid, "readOnly", r.ReadOnly)
	return nil
}

// Unmount takes a volume away: when it returns nil, everything is durable and no process has the
// device. ErrBusy if it is still mounted elsewhere, or does not come to an end in time; nothing is lost, repeat it.
func (m *Mounter) Unmount(ctx context.Context, r UnmountRequest) error {
	if err := checkTarget(r.Volume, r.Source, r.Target); err != nil {
		return err
	}
	v, err := m.acquire(ctx, r.Volume)
	if err != nil {
		return err
	}
	defer m.release(r.Volume, v)
	if v.rec == nil { // nothing serves it, or there is nothing
		if err := unmountLazily(r.Source, r.Target); err != nil {
			return err
		}
		top, err := at(v.hidden)
		if err != nil || top == nil || top.Source != r.Source {
			return err
		}
		v.rec = &record{places: v.places, Version: stateVersion, Volume: r.Volume, Source: r.Source, Target: r.Target, BlockBytes: RawAlign, Boot: bootID()}
		return m.clear(ctx, v, drop)
	}
	if v.rec.Target != r.Target {
		return fmt.Errorf("%w: it is mounted at another path", ErrConflict)
	}
	if v.proc == nil || !v.proc.alive() {
		return m.clear(ctx, v, drop)
	}
	published, err := m.published(v.rec)
	if err != nil {
		return err
	}
	if published {
		return fmt.Errorf("%w: still published", ErrBusy)
	}
	return m.stop(ctx, v)
}

// published tells whether a volume is mounted at another place than its own.
func (m *Mounter) published(r *record) (bool, error) {
	mounts, err := mountsOf(r.Source)
	return slices.ContainsFunc(mounts, func(p string) bool { return p != r.Target && p != r.fusePath() }), err
}

// stop unmounts and waits for the server to commit and end.
func (m *Mounter) stop(ctx context.Context, v *volume) error {
	p, ask := v.proc, v.proc.ask
	ctx, cancel := context.WithTimeout(ctx, m.opt.StopTimeout)
	defer cancel()
	m.opt.Hook("sync")
	// A failure here does not keep the volume: the server commits again at its end, and reports by its exit.
	syncCtx, cancelSync := context.WithTimeout(ctx, m.opt.StopTimeout/2)
	err := ask.Sync(syncCtx)
	cancelSync()
	if err != nil && p.alive() {
		m.opt.Log.WarnContext(ctx, "sync before unmount", "volume", v.rec.Volume, "error", err.Error())
		if err := m.killWedged(ctx, v); err != nil {
			return err
		}
	}
	if !p.alive() { // it died before, unasked: nothing more can be saved than what the log on the device has
		return m.clear(context.WithoutCancel(ctx), v, drop)
	}
	if err := m.letGo(ctx, v.rec, false); err != nil && p.alive() {
		return err
	}
	m.opt.Hook("unmount")
	if err := unmount(ctx, v.rec.fusePath()); err != nil && p.alive() {
		return err
	}
	m.opt.Hook("unmounted")
	// With its last mount the kernel ends the connection and the server comes to its end by itself. Mounts
	// in other namespaces (a container that is just going) keep it; then it is asked.
	if !await(ctx, p.dead, m.opt.StopTimeout/4) {
		// A server that ends may cut the conversation before it has answered.
		if err := ask.Unmount(ctx); err != nil && !await(ctx, p.dead, askTimeout) {
			return fmt.Errorf("%w: the mount server does not end: %w", ErrBusy, err)
		}
		if !await(ctx, p.dead, m.opt.StopTimeout/4) {
			return fmt.Errorf("%w: the mount server does not end", ErrBusy)
		}
	}
	exit := p.exitError()
	m.opt.Log.InfoContext(ctx, "unmounted", "volume", v.rec.Volume, "pid", p.pid)
	m.opt.Hook("forget")
	if err := m.clear(context.WithoutCancel(ctx), v, drop); err != nil {
		return err
	}
	if exit != nil {
		return fmt.Errorf("%w: at the end: %w", ErrServer, exit)
	}
	return nil
}

// killWedged ends a server that does not even answer from memory: nothing else would ever let the volume go. What
// was synced is on the device; the caller learns that the rest may be lost.
func (m *Mounter) killWedged(ctx context.Context, v *volume) error {
	askCtx, cancel := context.WithTimeout(ctx, m.opt.StopTimeout/4)
	defer cancel()
	if _, err := v.proc.ask.Status(askCtx); err == nil || !errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	m.opt.Log.ErrorContext(ctx, "mount server does not answer, killed", "volume", v.rec.Volume, "pid", v.proc.pid)
	if err := m.clear(context.WithoutCancel(ctx), v, drop); err != nil {
		return err
	}
	return fmt.Errorf("%w: it did not answer and was killed; what was not synced may be lost", ErrServer)
}

// server returns the control client of a living server.
func (m *Mounter) server(ctx context.Context, id string) (control.Client, error) {
	v, err := m.acquire(ctx, id)
	if err != nil {
		return control.Client{}, err
	}
	defer m.release(id, v)
	if v.rec == nil {
		return control.Client{}, ErrNotMounted
	}
	if v.proc == nil || !v.proc.alive() {
		return control.Client{}, ErrDead
	}
	return v.proc.ask, nil
}

// Grow lets a mounted volume take in what its device has grown by; returns its size in bytes, of a raw block volume that of its device.
func (m *Mounter) Grow(ctx context.Context, id string) (int64, error) {
	c, err := m.server(ctx, id)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, m.opt.StopTimeout)
	defer cancel()
	n, err := c.Grow(ctx)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrServer, err)
	}
	v, err := m.acquire(ctx, id)
	if err != nil {
		return 0, err
	}
	defer m.release(id, v)
	if v.rec == nil || v.rec.BlockBytes == 0 {
		return n, nil
	}
	if err := m.attach(ctx, v, RawBytes(n), false); err != nil {
		return 0, err
	}
	return v.rec.BlockBytes, nil
}

// Stats returns how full a mounted volume is.
func (m *Mounter) Stats(ctx context.Context, id string) (control.Stats, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c, err := m.server(ctx, id)
	if err != nil {
		return control.Stats{}, err
	}
	s, err := c.Stats(ctx)
	if err != nil {
		return control.Stats{}, fmt.Errorf("%w: %w", ErrServer, err)
	}
	return s, nil
}

// Health returns what is known of a volume here, with its adverse conditions. ErrNotMounted.
func (m *Mounter) Health(ctx context.Context, id string) (Info, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	i, server, err := m.info(ctx, id)
	if err != nil {
		return Info{}, err
	}
	if !i.Alive {
		i.Conditions = []control.Condition{{Inaccessible: true, Reason: "MountServerDead",
			Message: "the process that serves the volume has ended: its users get \"Transport endpoint is not connected\". If Sealvol runs on the node, " +
				"the volume is mounted again when the kubelet next stages or publishes it, and pods that used it must be restarted"}}
		return i, nil
	}
	s, err := server.Status(ctx)
	switch {
	case err != nil:
		i.Conditions = []control.Condition{{Inaccessible: true, Reason: "MountServerUnresponsive", Message: "the process that serves the volume does not answer"}}
	case s.Volume != id:
		i.Conditions = []control.Condition{{Inaccessible: true, Reason: "MountServerForeign", Message: "the process that answers serves another volume"}}
	default:
		i.Conditions = s.Conditions
	}
	return i, nil
}

// info describes a volume, and says how its server is asked, if one lives.
func (m *Mounter) info(ctx context.Context, id string) (i Info, server control.Client, err error) {
	v, err := m.acquire(ctx, id)
	if err != nil {
		return Info{}, server, err
	}
	defer m.release(id, v)
	if v.rec == nil {
		return Info{}, server, ErrNotMounted
	}
	i = Info{Volume: id, Target: v.rec.Target, PID: v.rec.PID, BlockBytes: v.rec.BlockBytes}
	if p := v.proc; p != nil {
		i.Alive, i.Adopted, i.HoldsFuse = p.alive(), p.adopted, p.holdsFuse()
		server = p.ask
	}
	return i, server, nil
}

// List returns all volumes of the mounter, ordered by id.
func (m *Mounter) List(ctx context.Context) []Info {
	m.mu.Lock()
	var ids []string
	for id := range m.volumes {
		ids = append(ids, id)
	}
	m.mu.Unlock()
	slices.Sort(ids)
	var list []Info
	for _, id := range ids {
		if i, _, err := m.info(ctx, id); err == nil {
			list = append(list, i)
		}
	}
	return list
}
