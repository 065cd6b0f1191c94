package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/sealvol/sealvol/pkg/atomicfile"
	"github.com/sealvol/sealvol/pkg/selfenc"
)

// encryptFile encrypts a file into a store.
func encryptFile(ctx context.Context, e selfenc.Encoding, store selfenc.ChunkStore, path string, o selfenc.Options) (*selfenc.DataMap, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return selfenc.EncryptTo(ctx, e, store, f, o)
}

// writeFile writes the data of r to a file. The file gets its name only when it is complete and
// durable. It replaces an existing regular file, but nothing else, such as a device.
func writeFile(ctx context.Context, path string, r *selfenc.Reader) error {
	f, err := atomicfile.Create(path, atomicfile.Options{})
	if errors.Is(err, atomicfile.ErrNotRegular) {
		return fmt.Errorf("%w: %w", err, syscall.EEXIST)
	}
	if err != nil {
		return err
	}
	defer f.Discard()
	if err := r.Copy(ctx, f, 0, r.Size()); err != nil {
		return err
	}
	return f.Commit()
}
