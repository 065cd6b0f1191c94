package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/sealvol/sealvol/pkg/selfenc"
)

// encryptFile encrypts a file to a store.
func encryptFile(ctx context.Context, e selfenc.Encoding, store selfenc.ChunkStore, path string, o selfenc.Options) (*selfenc.DataMap, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return selfenc.EncryptTo(ctx, e, store, f, o)
}

// writeFile writes what r has to a file, which gets its name when it is whole and
// durable. A file that had the name is replaced; anything else, such as
// a device, is not.
func writeFile(ctx context.Context, path string, r *selfenc.Reader) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is there and no regular file: %w", path, syscall.EEXIST)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	err = r.Copy(ctx, f, 0, r.Size())
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		if rerr := os.Remove(f.Name()); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
