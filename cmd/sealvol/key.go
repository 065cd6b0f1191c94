package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
)

// maxKeyFile limits the size of a key file. The public half of a recovery key is the longest, with
// about 1,970 characters.
const maxKeyFile = 4096

// keyFlags are the three flags for the key of a volume. Exactly one must be set.
type keyFlags struct {
	prefix                                   string // of the flags' names, such as "new-"
	keyFile, passphraseFile, recoveryKeyFile string

	lines bool // set by credential: the passphrase file has more than one line
}

// register adds --key-file, --passphrase-file and --recovery-key-file, with f.prefix after the
// dashes.
func (f *keyFlags) register(flags *pflag.FlagSet) {
	the, a := "the", "a"
	if f.prefix != "" {
		the, a = "the new", "a new" // help shows both kinds of flags, one below the other
	}
	flags.StringVar(&f.keyFile, f.prefix+"key-file", "", "file with "+the+" key: 32 raw bytes or 64 hexadecimal digits")
	flags.StringVar(&f.passphraseFile, f.prefix+"passphrase-file", "", "file with "+a+" passphrase in one line")
	flags.StringVar(&f.recoveryKeyFile, f.prefix+"recovery-key-file", "", "file with the secret half of "+a+" recovery key")
}

// given reports whether any of the flags was set.
func (f *keyFlags) given() bool {
	return f.keyFile != "" || f.passphraseFile != "" || f.recoveryKeyFile != ""
}

// chosen returns the name and value of the flag that was set.
func (f *keyFlags) chosen() (flag, path string) {
	switch {
	case f.keyFile != "":
		return f.prefix + "key-file", f.keyFile
	case f.passphraseFile != "":
		return f.prefix + "passphrase-file", f.passphraseFile
	}
	return f.prefix + "recovery-key-file", f.recoveryKeyFile
}

// errKeyFlags is a usage error.
var errKeyFlags = errors.New("give")

// one checks that exactly one flag was set.
func (f *keyFlags) one() error {
	count := 0
	for _, s := range []string{f.keyFile, f.passphraseFile, f.recoveryKeyFile} {
		if s != "" {
			count++
		}
	}
	if count != 1 {
		return fmt.Errorf("%w exactly one of --%[2]skey-file, --%[2]spassphrase-file and --%[2]srecovery-key-file", errKeyFlags, f.prefix)
	}
	return nil
}

// credential reads the key from the file that was given. The caller erases it.
func (f *keyFlags) credential() (crypto.Credential, error) {
	if err := f.one(); err != nil {
		return nil, err
	}
	switch {
	case f.keyFile != "":
		k, err := readKey(f.keyFile)
		if err != nil {
			return nil, err
		}
		return crypto.SecretCredential(k), nil
	case f.passphraseFile != "":
		return fromFile("passphrase", f.passphraseFile, func(b []byte) (crypto.Credential, error) {
			phrase, lines := crypto.PassphraseLine(b)
			f.lines = lines
			return crypto.PassphraseCredential(phrase)
		})
	}
	return fromFile("recovery key", f.recoveryKeyFile, func(b []byte) (crypto.Credential, error) {
		return crypto.ParseRecoverySecret(b)
	})
}

// explain adds a hint to an error of opening a volume if the cause may be the passphrase file.
func (f *keyFlags) explain(err error) error { return explainLines(f.lines, err) }

// explainTenant adds a hint to an error of opening the store's copy of the tenant secret.
func (f *keyFlags) explainTenant(err error) error {
	if explained := f.explain(err); hint(explained) != hint(err) || !errors.Is(err, snapstore.ErrNoSlot) {
		return explained
	}
	return withHint(err, "give --tenant-file, or a key that opens the store's copy of the tenant secret; `sealvol snapshot key add` adds one")
}

// explainLines adds a hint to the error of a wrong key if the passphrase file has several lines.
func explainLines(lines bool, err error) error {
	if lines && (errors.Is(err, crypto.ErrWrongKey) || errors.Is(err, snapstore.ErrNoSlot)) {
		return withHint(err, "the passphrase file has more than one line, and all lines together were used as the passphrase; keep only the line with the passphrase")
	}
	return err
}

// recipient reads the key from the file that was given, for a new key slot. erase overwrites the
// key.
func (f *keyFlags) recipient() (r crypto.Recipient, erase func(), err error) {
	c, err := f.credential()
	if err == nil && f.lines {
		c.Erase()
		err = fmt.Errorf("read the passphrase: %s: %w", f.passphraseFile, crypto.ErrPassphraseLines)
	}
	if err != nil {
		return nil, nil, err
	}
	if secret, ok := c.(*crypto.RecoverySecret); ok {
		defer secret.Erase()
		pub, err := secret.Recipient()
		if err != nil {
			return nil, nil, err
		}
		return pub, func() {}, nil
	}
	return c.(crypto.Recipient), c.Erase, nil // keys other than recovery keys are both
}

// readKey reads a key file. The caller erases the key.
func readKey(path string) (*crypto.Key, error) {
	return fromFile("key", path, crypto.ParseKeyFile)
}

// readRecipient reads the public half of a recovery key. arg is the text itself or the name of a
// file that contains it.
func readRecipient(arg string) (*crypto.RecoveryRecipient, error) {
	if strings.HasPrefix(strings.ToLower(arg), "sealvolpub1") {
		return crypto.ParseRecoveryRecipient(arg)
	}
	return fromFile("recipient", arg, func(b []byte) (*crypto.RecoveryRecipient, error) {
		return crypto.ParseRecoveryRecipient(string(b))
	})
}

// fromFile passes the contents of a small file to parse, and then overwrites the buffer. The file
// may be a pipe.
func fromFile[T any](what, path string, parse func([]byte) (T, error)) (T, error) {
	var none T
	f, err := os.Open(path)
	if err != nil {
		return none, fmt.Errorf("read the %s: %w", what, err)
	}
	defer f.Close()
	if inherited, err := os.Readlink(path); err == nil && strings.HasPrefix(path, "/dev/fd/") && strings.HasPrefix(inherited, "/") {
		path = inherited // of the process that started this mount server: the user knows no other name
	}
	b := make([]byte, maxKeyFile+1) // fixed size: growing it would leave a copy in memory
	defer clear(b)
	n, err := io.ReadFull(f, b)
	if err == nil {
		return none, fmt.Errorf("read the %s: %s is longer than %d bytes", what, path, maxKeyFile)
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return none, fmt.Errorf("read the %s: %w", what, err)
	}
	v, err := parse(b[:n])
	if err != nil {
		return none, fmt.Errorf("read the %s: %s: %w", what, path, err)
	}
	return v, nil
}
