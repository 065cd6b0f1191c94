package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

// checkFile is what the check writes: random bytes, and before them their SHA-256.
const (
	checkFile      = "sealvol-check"
	checkSizeBytes = 4 << 20
)

// checkVolumeCommand is what the pods of helm test run: one writes, another reads.
func checkVolumeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check-volume write|read DIR", Short: "Writes a file into a volume, or reads it again; helm test runs it", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			switch args[0] {
			case "write":
				return writeCheck(args[1], c.OutOrStdout())
			case "read":
				return readCheck(args[1], c.OutOrStdout())
			default:
				return fmt.Errorf("%q is neither write nor read", args[0])
			}
		},
	}
}

func writeCheck(dir string, out io.Writer) (err error) {
	data := make([]byte, checkSizeBytes)
	if _, err := rand.Read(data); err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	name := filepath.Join(dir, checkFile)
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(append(sum[:], data...))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s: %d bytes written and synced\n", name, checkSizeBytes)
	return err
}

func readCheck(dir string, out io.Writer) error {
	name := filepath.Join(dir, checkFile)
	got, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if len(got) != sha256.Size+checkSizeBytes {
		return fmt.Errorf("%s has %d bytes, not the %d that were written: the volume has lost what was synced", name, len(got), sha256.Size+checkSizeBytes)
	}
	if sum := sha256.Sum256(got[sha256.Size:]); !bytes.Equal(sum[:], got[:sha256.Size]) {
		return fmt.Errorf("%s does not hold what was written: the volume has changed it", name)
	}
	_, err = fmt.Fprintf(out, "%s: %d bytes are what was written\n", name, checkSizeBytes)
	return err
}
