package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
)

// keySource is a file with a key, and the role of the key.
type keySource struct {
	role volumectl.KeyRole
	kind volumectl.KeyKind
	path string
}

func (f *keyFlags) source(role volumectl.KeyRole) keySource {
	switch {
	case f.keyFile != "":
		return keySource{role, volumectl.KindSecret, f.keyFile}
	case f.passphraseFile != "":
		return keySource{role, volumectl.KindPassphrase, f.passphraseFile}
	}
	return keySource{role, volumectl.KindRecovery, f.recoveryKeyFile}
}

// newKeyFlags are the flags for a key to add to a volume.
type newKeyFlags struct {
	keyFlags
	recipient string
}

func (f *newKeyFlags) register(c *cobra.Command) {
	f.prefix = "new-"
	f.keyFlags.register(c.Flags())
	c.Flags().StringVar(&f.recipient, "recipient", "", "public half of a recovery key, or a file that contains it")
}

// one checks that exactly one flag was set.
func (f *newKeyFlags) one() error {
	switch {
	case f.recipient != "" && f.given():
		return usageError(errors.New("give either --recipient or one of the flags --new-…, not both"))
	case f.recipient == "" && !f.given():
		return usageError(errors.New("the new key is missing: give --new-key-file, --new-passphrase-file, --new-recovery-key-file or --recipient"))
	case f.recipient == "":
		return f.keyFlags.one()
	}
	return nil
}

func (f *newKeyFlags) source() (s keySource, err error) {
	if err := f.one(); err != nil || f.recipient == "" {
		return f.keyFlags.source(volumectl.KeyNew), err
	}
	return keySource{volumectl.KeyNew, volumectl.KindRecipient, f.recipient}, nil
}

// keyFileOf collects keys in memory, for the server of a mount or for this process.
func keyFileOf(sources []keySource) (f *volumectl.KeyFile, err error) {
	if f, err = volumectl.NewKeyFile(); err != nil {
		return nil, err
	}
	for _, s := range sources {
		if err := addKeyTo(f, s); err != nil {
			f.Close()
			return nil, fmt.Errorf("read the key: %w", err)
		}
	}
	return f, f.Seal()
}

func addKeyTo(f *volumectl.KeyFile, s keySource) error {
	if s.kind == volumectl.KindRecipient && strings.HasPrefix(strings.ToLower(s.path), "sealvolpub1") {
		return f.Add(s.role, s.kind, strings.NewReader(s.path))
	}
	in, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := f.Add(s.role, s.kind, in); err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	return nil
}
