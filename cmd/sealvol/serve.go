package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mountserver"
	"github.com/sealvol/sealvol/pkg/mountserver/mounts"
	"github.com/sealvol/sealvol/pkg/volume"
)

// serve mounts the volume on path at dir, and serves it until it is unmounted. It calls ready when
// the file system answers.
func serve(o *mountOptions, path, dir string, ready func() error) (err error) {
	logs := mountserver.NewLogFile()
	defer func() { logs.End(err) }()
	level := &slog.LevelVar{}
	if o.readyFD != 0 { // the process that started us needs only warnings and errors
		level.Set(slog.LevelWarn)
	}
	log := slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: level})).With("device", path, "dir", dir)
	signals := mountserver.Signals()
	s, err := o.open(path, log, level)
	if err != nil {
		return err
	}
	o.mount.Source = mounts.Source(mounts.Absolute(path), o.snapshot)
	return s.MountAndServe(mountserver.Mount{Dir: dir, Options: o.mount, Signals: signals, Ready: func() error {
		err := ready()
		if o.readyFD != 0 {
			logs.Detach()
		}
		return err
	}})
}

// open opens the volume to serve.
func (o *mountOptions) open(path string, log *slog.Logger, level *slog.LevelVar) (*mountserver.Server, error) {
	cred, err := o.key.credential()
	if err != nil {
		return nil, err
	}
	defer cred.Erase()
	if o.readyFD != 0 {
		unix.Close(o.readyFD + 1) // the key file; see startServer
	}
	opts := mountserver.Options{Keys: []crypto.Credential{cred}, ReadOnly: o.readOnly, Discard: o.discard, MemoryBytes: int64(o.memory),
		FormatV1: true, AnchorFile: o.anchorFile, Snapshot: o.snapshot, Log: log, Level: level}
	if o.anchorFile != "" {
		if opts.Anchor, err = readAnchor(o.anchorFile); err != nil {
			return nil, err
		}
	}
	if opts.Device, err = openDevice(path, o.readOnly); err != nil {
		return nil, err
	}
	s, err := mountserver.Open(context.Background(), opts)
	if err != nil {
		return nil, o.key.explain(v1Error(fmt.Errorf("%s: %w", path, err)))
	}
	return s, nil
}

// readAnchor is mountserver.ReadAnchor with a hint.
func readAnchor(path string) (*volume.Anchor, error) {
	a, err := mountserver.ReadAnchor(path)
	if errors.Is(err, mountserver.ErrAnchorFile) {
		err = withHint(err, "restore the file from a backup; to mount without rollback protection, move the file away")
	}
	return a, err
}
