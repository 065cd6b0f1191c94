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

// encryptFile encrypts a file to a store.
func encryptFile(ctx context.Context, e selfenc.Encoding, store selfenc.ChunkStore, path string, o selfenc.Options) (*selfenc.DataMap, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return selfenc.EncryptTo(ctx, e, store, f, o)
}

// writeFile writes what r has to a file, which gets its name when it is whole and durable. A file
// that had the name is replaced; anything else, such as a device, is not.
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
