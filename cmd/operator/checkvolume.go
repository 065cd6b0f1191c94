package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// checkSizeBytes is how much the check writes.
const checkSizeBytes = 4 << 20

// checkVolumeCommand is what the pod of helm test runs.
func checkVolumeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check-volume DIR", Short: "Writes a file into a volume and reads it again; helm test runs it", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			data := make([]byte, checkSizeBytes)
			if _, err := rand.Read(data); err != nil {
				return err
			}
			name := filepath.Join(args[0], "sealvol-check")
			if err := writeCheck(name, data); err != nil {
				return err
			}
			if err := readCheck(name, data); err != nil {
				return err
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "%s: %d bytes were written, synced and read again\n", name, len(data))
			return err
		},
	}
}

// writeCheck writes a file, syncs it, and has the kernel forget it: what is read then comes from the volume's server.
func writeCheck(name string, data []byte) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
}

func readCheck(name string, want []byte) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%s: %d bytes were written and synced, and %d others read: this volume does not keep what is written", name, len(want), len(got))
	}
	return nil
}
