package mounter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Mounter supervises mount servers. Use Open, or Run for the complete service.
type Mounter struct {
	opt  Options
	lock *os.File

	mu      sync.Mutex
	volumes map[string]*volume // guarded by mu
	workers int                // snapshot workers that run; guarded by mu
}

// volume is the state of one volume. The holder of lock owns all fields except lock itself and
// places, which does not change.
type volume struct {
	places
	lock  chan struct{} // holds one token while unlocked
	users int           // guarded by Mounter.mu: how many wait for or hold the lock

	rec  *record  // nil if the volume is not mounted here
	proc *process // nil if no running server is known; if rec is set, the server has died
	// worker is the last snapshot worker since the volume was mounted, or nil.
	worker *snapWorker
}

// Open takes ownership of the state directory. It adopts servers that still run. It remembers the
// others as dead until their volumes are mounted again or unmounted.
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
			return fmt.Errorf("state directory %s: another mounter uses it: %w", m.opt.StateDir, err)
		}
	}
}

// Close gives up the state directory. Mount servers keep running.
func (m *Mounter) Close() error { return m.lock.Close() }

func (m *Mounter) newVolume(id string) *volume {
	v := &volume{places: m.opt.places(id), lock: make(chan struct{}, 1)}
	v.lock <- struct{}{}
	return v
}

// acquire locks a volume and creates its entry if necessary. release drops entries that hold
// nothing.
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
		return nil, fmt.Errorf("%w: another operation on the volume is running: %w", ErrBusy, ctx.Err())
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
	// The holder of the lock counts as a user. So if there are no users, the fields may be read.
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
