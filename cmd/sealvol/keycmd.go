package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/crypto"
)

func keyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "key",
		Short: "Make keys",
		Long:  `Make the keys that open volumes.`,
		Args:  cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, a []string) error {
			if len(a) > 0 {
				return usageError(fmt.Errorf("unknown command %q", a[0]))
			}
			return c.Help()
		},
	}
	c.AddCommand(&cobra.Command{
		Use:   "generate FILE",
		Short: "Write a new random key to a file",
		Long: `Write a new random key to a new file of mode 0600: 64 hexadecimal digits and a line
end. A file that exists is never overwritten. Keep a copy of the key in a safe
place: without it the volume is lost.`,
		Example: `  sealvol key generate vol.key`,
		Args:    args(1, 1, "one FILE"),
		RunE:    func(_ *cobra.Command, a []string) error { return generateKey(a[0]) },
	})
	for _, name := range []string{"list", "add", "remove", "rotate", "rotate-data", "shred"} {
		c.AddCommand(laterCommand(name))
	}
	return c
}

func generateKey(path string) (err error) {
	k, err := crypto.GenerateKey()
	if err != nil {
		return err
	}
	defer k.Erase()
	text := make([]byte, 2*len(k.Bytes())+1)
	defer clear(text)
	hex.Encode(text, k.Bytes())
	text[len(text)-1] = '\n'
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if os.IsExist(err) {
		return withHint(fmt.Errorf("%s exists, and keys are never overwritten", path), "choose another name")
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	defer f.Close()
	if _, err := f.Write(text); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}
