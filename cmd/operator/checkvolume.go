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

// checkSizeBytes is the size of the file that the check writes.
const checkSizeBytes = 4 << 20

// checkVolumeCommand is the command that the pod of helm test runs.
func checkVolumeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check-volume DIR", Short: "Writes a file into a volume and reads it back; helm test runs this command", Args: cobra.ExactArgs(1),
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
			_, err := fmt.Fprintf(c.OutOrStdout(), "%s: wrote, synced and read back %d bytes\n", name, len(data))
			return err
		},
	}
}

// writeCheck writes a file, syncs it, and drops it from the page cache, so that a read gets it from
// the mount server.
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
		return fmt.Errorf("%s: the %d bytes read differ from the %d bytes written and synced: this volume loses or changes data", name, len(got), len(want))
	}
	return nil
}
