package mounter

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sealvol/sealvol/pkg/mounter/control"
)

// link creates the link by which control.Find finds the server of a mount. Failing to create it
// breaks nothing.
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

// unlink removes the links to a volume's control socket, because device numbers are reused.
func (m *Mounter) unlink(v *volume) {
	err := control.LockNames(m.opt.RuntimeDir, func() (err error) {
		links, _ := filepath.Glob(filepath.Join(m.opt.RuntimeDir, "*.sock")) // cannot fail: the pattern is well-formed
		for _, l := range links {
			if to, rerr := os.Readlink(l); rerr == nil && to == v.control {
				err = errors.Join(err, os.Remove(l))
			}
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.opt.Log.Warn("link to a control socket not removed", "error", err)
	}
}
