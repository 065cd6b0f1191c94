package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

// keyOp is a request about keys. The server of a mounted DIR executes it, or this process does on a
// DEVICE, with the same function.
type keyOp[R any] struct {
	op       string
	args     any
	sources  []keySource
	progress func(done, total uint64)
	local    func(ctx context.Context, v *volume.Volume, keys *volumectl.KeySet) (R, error)
}

func (o *keyOp[R]) run(target string) (r R, err error) {
	c, err := serverOf(target)
	if err != nil {
		return r, err
	}
	f, err := keyFileOf(o.sources)
	if err != nil {
		return r, err
	}
	defer f.Close()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if c != nil {
		req := control.Request{Op: o.op, Args: o.args}
		if o.progress != nil {
			req.Progress = func(p control.Progress) { o.progress(p.Done, p.Total) }
		}
		if len(o.sources) > 0 {
			req.File = f.File
		}
		return r, explainLines(f.Lines, volumectl.FromServer(c.Do(ctx, req, &r)))
	}
	keys, err := volumectl.ReadKeys(f)
	if err != nil {
		return r, err
	}
	defer keys.Erase()
	r, err = o.onDevice(ctx, target, keys)
	return r, explainLines(f.Lines, err)
}

func (o *keyOp[R]) onDevice(ctx context.Context, path string, keys *volumectl.KeySet) (r R, err error) {
	dev, err := openDevice(path, false)
	if errors.Is(err, device.ErrInUse) {
		return r, withHint(err, "if the volume is mounted, give the directory instead of the device")
	}
	if err != nil {
		return r, err
	}
	v, err := openByAny(dev, path, keys)
	if err != nil {
		discard(dev)
		return r, err
	}
	defer func() { err = errors.Join(err, v.Close(), dev.Close()) }()
	return o.local(ctx, v, keys)
}

// openByAny opens a volume with the first key that fits. It also tries the new key, because an
// interrupted rotation may have replaced the old one already.
func openByAny(dev *device.File, path string, keys *volumectl.KeySet) (v *volume.Volume, err error) {
	creds := append([]crypto.Credential{}, keys.Old...)
	if keys.New != nil && keys.New.Credential != nil {
		creds = append(creds, keys.New.Credential)
	}
	var first error
	for _, c := range creds {
		if v, err = openOn(dev, path, c, volume.Options{}); err == nil || !errors.Is(err, volume.ErrWrongKey) {
			return v, err
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// deviceKey returns the key that a DEVICE needs. The server of a DIR has its key; if one is given,
// the server checks it.
func deviceKey(target string, key *keyFlags) ([]keySource, error) {
	c, err := serverOf(target)
	if err != nil {
		return nil, err
	}
	if c != nil {
		return nil, checkKey(c, target, key)
	}
	if err := key.one(); err != nil {
		return nil, err
	}
	return []keySource{key.source(volumectl.KeyOld)}, nil
}

func jsonFlag(c *cobra.Command, asJSON *bool) {
	c.Flags().BoolVar(asJSON, "json", false, "print the report as JSON")
}

// report runs the request and prints the result.
func (o *keyOp[R]) report(w io.Writer, target string, asJSON bool) error {
	r, err := o.run(target)
	if err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	if asJSON {
		return writeJSON(w, r)
	}
	switch r := any(&r).(type) {
	case *volumectl.KeyChange:
		return printKeyChange(w, r)
	case *volumectl.Rotation:
		return printRotation(w, r)
	}
	return nil
}
