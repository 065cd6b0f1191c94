package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/atomicfile"
	"github.com/sealvol/sealvol/pkg/crypto"
)

func keyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "key",
		Short: "Create keys, and change the keys of a volume",
		Long: `Create keys, and change the keys of a volume.

A volume has up to 16 key slots. Each slot holds the data key, encrypted under another
key, and each of these keys opens the volume. To replace one of them, use rotate, which
is fast. If somebody may have both a key and a copy of the device, replace the data key
with rotate-data, which rewrites all data in the background.

For a mounted volume, give the directory.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, a []string) error {
			if len(a) > 0 {
				return usageError(fmt.Errorf("unknown command %q", a[0]))
			}
			return c.Help()
		},
	}
	c.AddCommand(generateCommand(), keyListCommand(), keyAddCommand(), keyRemoveCommand(), keyRotateCommand(), keyRotateDataCommand(), keyShredCommand())
	return c
}

func generateCommand() *cobra.Command {
	var recovery bool
	var suite string
	c := &cobra.Command{
		Use:   "generate [--recovery] FILE",
		Short: "Create a key file",
		Long: `Write a new random key to a new file with mode 0600: 64 hexadecimal digits and a
newline. An existing file is never overwritten. Keep a copy of the key in a safe place.
Without a key, the volume is lost.

With --recovery, the file holds the secret half of a recovery key, as text that can be
typed from paper. The command prints the public half, which is sufficient to add the
key to a volume (sealvol key add --recipient). So the secret half can be kept offline
until it is needed.`,
		Example: `  sealvol key generate vol.key
  sealvol key generate --recovery rescue.key > rescue.pub`,
		Args: args(1, 1, "one FILE"),
		RunE: func(c *cobra.Command, a []string) error {
			s, err := crypto.ParseSuite(suite)
			if err != nil {
				return usageError(fmt.Errorf("--suite %s: must be xchacha20poly1305 or xaes256gcm", suite))
			}
			if recovery {
				return generateRecovery(c.OutOrStdout(), a[0], s)
			}
			return generateKey(a[0])
		},
	}
	c.Flags().BoolVar(&recovery, "recovery", false, "create a recovery key and print its public half")
	c.Flags().StringVar(&suite, "suite", crypto.SuiteXChaCha20Poly1305.String(), "cipher of the volumes that the recovery key will open")
	return c
}

// generateRecovery writes the secret half to path and the public half to w.
func generateRecovery(w io.Writer, path string, suite crypto.Suite) error {
	secret, err := crypto.GenerateRecovery(suite)
	if err != nil {
		return err
	}
	defer secret.Erase()
	pub, err := secret.Recipient()
	if err != nil {
		return err
	}
	text, err := secret.Text()
	if err != nil {
		return err
	}
	defer clear(text)
	line := append(append(make([]byte, 0, len(text)+1), text...), '\n')
	defer clear(line)
	if err := writeNew(path, line); err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, pub)
	return err
}

func generateKey(path string) error {
	k, err := crypto.GenerateKey()
	if err != nil {
		return err
	}
	defer k.Erase()
	text := make([]byte, 2*len(k.Bytes())+1)
	defer clear(text)
	hex.Encode(text, k.Bytes())
	text[len(text)-1] = '\n'
	return writeNew(path, text)
}

// writeNew creates a file with mode 0600, and syncs it. The file must not exist.
func writeNew(path string, text []byte) error {
	err := atomicfile.Write(path, text, atomicfile.Options{New: true})
	if errors.Is(err, os.ErrExist) || errors.Is(err, atomicfile.ErrNotRegular) {
		return withHint(fmt.Errorf("%s exists; existing files are never overwritten", path), "choose another file name")
	}
	return err
}
