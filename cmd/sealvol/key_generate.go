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
		Short: "Make keys, and change those that open a volume",
		Long: `Make keys, and change those that open a volume.

A volume has up to 16 key slots; each key in one opens it. They all hold the same
data key. To change a key that people know, rotate it: that takes a moment. To
change the data key itself, as after somebody may have read a key and a copy of
the device, rotate-data: everything is written again, in the background.

Volumes that are mounted are changed through their mount: give the directory.`,
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
		Short: "Write a new random key to a file",
		Long: `Write a new random key to a new file of mode 0600: 64 hexadecimal digits and a line
end. A file that exists is never overwritten. Keep a copy of the key in a safe
place: without it the volume is lost.

With --recovery it is the secret half of a recovery key, as text that can be copied
from paper. The public half is printed; that alone makes a key slot
(sealvol key add --recipient), so that the secret half can stay away from machines
until it is needed.`,
		Example: `  sealvol key generate vol.key
  sealvol key generate --recovery rescue.key > rescue.pub`,
		Args: args(1, 1, "one FILE"),
		RunE: func(c *cobra.Command, a []string) error {
			s, err := crypto.ParseSuite(suite)
			if err != nil {
				return usageError(fmt.Errorf("--suite %s: it is xchacha20poly1305 or xaes256gcm", suite))
			}
			if recovery {
				return generateRecovery(c.OutOrStdout(), a[0], s)
			}
			return generateKey(a[0])
		},
	}
	c.Flags().BoolVar(&recovery, "recovery", false, "make a recovery key and print its public half")
	c.Flags().StringVar(&suite, "suite", crypto.SuiteXChaCha20Poly1305.String(), "cipher of the volumes that the recovery key is for")
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

// writeNew writes a private file that does not exist, durably.
func writeNew(path string, text []byte) error {
	err := atomicfile.Write(path, text, atomicfile.Options{New: true})
	if errors.Is(err, os.ErrExist) || errors.Is(err, atomicfile.ErrNotRegular) {
		return withHint(fmt.Errorf("%s exists, and keys are never overwritten", path), "choose another name")
	}
	return err
}
