package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// parse runs a command line of key flags.
func parse(t *testing.T, prefix string, args ...string) *keyFlags {
	t.Helper()
	f := &keyFlags{prefix: prefix}
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	f.register(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return f
}

func newVMK(t *testing.T) []crypto.EpochKey {
	t.Helper()
	k, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Erase)
	return []crypto.EpochKey{{Epoch: 1, VMK: k}}
}

// TestKeyFlags makes a slot for each kind of key and opens it again, from
// files as users write them.
func TestKeyFlags(t *testing.T) {
	recovery, err := crypto.GenerateRecovery(crypto.SuiteXChaCha20Poly1305)
	if err != nil {
		t.Fatal(err)
	}
	defer recovery.Erase()
	text, err := recovery.Text()
	if err != nil {
		t.Fatal(err)
	}
	raw := bytes.Repeat([]byte{0x81}, 32)
	for _, c := range []struct{ flag, made, opened string }{
		{"key-file", string(raw), hex.EncodeToString(raw) + "\n"},
		{"passphrase-file", "pass phrase\n", "pass phrase"},
		{"passphrase-file", "pass phrase\r\n", "pass phrase\n"},
		{"recovery-key-file", string(text) + "\n", strings.ToLower(string(text))},
	} {
		t.Run(c.flag, func(t *testing.T) {
			r, erase, err := parse(t, "new-", "--new-"+c.flag, write(t, "made", c.made)).recipient()
			if err != nil {
				t.Fatal(err)
			}
			defer erase()
			id, epochs := crypto.NewUUID(), newVMK(t)
			slot, err := crypto.NewSlot(crypto.SuiteXChaCha20Poly1305, id, 0, r, epochs)
			if err != nil {
				t.Fatal(err)
			}
			f := parse(t, "", "--"+c.flag, write(t, "opened", c.opened))
			if !f.given() {
				t.Error("not given")
			}
			cred, err := f.credential()
			if err != nil {
				t.Fatal(err)
			}
			defer cred.Erase()
			got, err := crypto.OpenSlot(crypto.SuiteXChaCha20Poly1305, id, 0, &slot, cred)
			if err != nil {
				t.Fatal(err)
			}
			defer crypto.EraseEpochs(got)
			if !bytes.Equal(got[0].VMK.Bytes(), epochs[0].VMK.Bytes()) {
				t.Error("opens to another key")
			}
		})
	}
}

func TestKeyFlagErrors(t *testing.T) {
	const secret = "do-not-show-this"
	dir := t.TempDir()
	for name, c := range map[string]struct {
		args  []string
		usage bool
		text  string
	}{
		"none":          {nil, true, "exactly one of --old-key-file, --old-passphrase-file and --old-recovery-key-file"},
		"two":           {[]string{"--old-key-file", "a", "--old-passphrase-file", "b"}, true, "exactly one"},
		"missing":       {[]string{"--old-key-file", dir + "/none"}, false, "none: no such file"},
		"directory":     {[]string{"--old-key-file", dir}, false, "is a directory"},
		"bad key":       {[]string{"--old-key-file", write(t, "k", secret)}, false, "but it has 16 bytes"},
		"long key":      {[]string{"--old-key-file", write(t, "k", strings.Repeat(secret, 300))}, false, "longer than 4096 bytes"},
		"no passphrase": {[]string{"--old-passphrase-file", write(t, "p", "\n")}, false, "passphrase is empty"},
		"long phrase":   {[]string{"--old-passphrase-file", write(t, "p", strings.Repeat(secret, 65))}, false, "longer than 1024 bytes"},
		"bad recovery":  {[]string{"--old-recovery-key-file", write(t, "r", secret)}, false, "not a recovery key"},
		"typo":          {[]string{"--old-recovery-key-file", write(t, "r", "SEALVOL-RECOVERY-1-"+strings.Repeat("ABCD-", 16))}, false, "typing error"},
		"endless":       {[]string{"--old-key-file", "/dev/zero"}, false, "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(t, "old-", c.args...).credential()
			if err == nil || !strings.Contains(err.Error(), c.text) || errors.Is(err, errKeyFlags) != c.usage {
				t.Fatalf("got %v, want %q", err, c.text)
			}
			if strings.Contains(err.Error(), secret[:6]) || strings.Contains(err.Error(), "ABCD") {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
}

func TestReadRecipient(t *testing.T) {
	secret, err := crypto.GenerateRecovery(crypto.SuiteXAES256GCM)
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Erase()
	pub, err := secret.Recipient()
	if err != nil {
		t.Fatal(err)
	}
	for _, arg := range []string{pub.String(), strings.ToUpper(pub.String()), write(t, "pub", pub.String()+"\n")} {
		got, err := readRecipient(arg)
		if err != nil || !got.Equal(pub) {
			t.Errorf("%.20s…: %v", arg, err)
		}
	}
	for _, arg := range []string{"", "none", "sealvolpub1", pub.String()[:99], write(t, "bad", "x")} {
		if _, err := readRecipient(arg); err == nil {
			t.Errorf("%.20s… was taken", arg)
		}
	}
}

// TestPassphraseLines: a new passphrase has one line. What was sealed with all lines
// of a file, as earlier versions did, is opened by them.
func TestPassphraseLines(t *testing.T) {
	const secret = "first of them\nsecond of them"
	file := write(t, "p", secret+"\n")
	if _, _, err := parse(t, "new-", "--new-passphrase-file", file).recipient(); !errors.Is(err, crypto.ErrPassphraseLines) || !strings.Contains(hint(err), "keep only one line") ||
		strings.Contains(err.Error(), "of them\n") || strings.Contains(err.Error(), "first") {
		t.Errorf("a new passphrase of two lines: %v", err)
	}
	if _, err := keyFileOf([]keySource{{volumectl.KeyNew, volumectl.KindPassphrase, file}}); !errors.Is(err, crypto.ErrPassphraseLines) {
		t.Errorf("a new passphrase of two lines for a mount's server: %v", err)
	}
	old, err := crypto.PassphraseCredential([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Erase()
	image := write(t, "v.img", "")
	if err := os.Truncate(image, 64<<20); err != nil {
		t.Fatal(err)
	}
	dev, err := device.Open(image, device.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(volume.Format(dev, volume.FormatOptions{Recipient: old}), dev.Close()); err != nil {
		t.Fatal(err)
	}
	_, end, err := openReadOnly(image, parse(t, "", "--passphrase-file", file))
	if err != nil {
		t.Fatalf("a volume that is sealed with two lines: %v", err)
	}
	end()
	keys, err := keyFileOf([]keySource{{volumectl.KeyOld, volumectl.KindPassphrase, file}})
	if err != nil {
		t.Fatalf("an old passphrase of two lines: %v", err)
	}
	defer keys.Close()
	if s, err := volumectl.ReadKeys(keys); err != nil || len(s.Old) != 1 {
		t.Errorf("keys: %+v, %v", s, err)
	} else {
		s.Erase()
	}
	_, end, err = openReadOnly(image, parse(t, "", "--passphrase-file", write(t, "p", "first of them\nof another volume\n")))
	if err == nil {
		end()
		t.Fatal("opened by another passphrase")
	}
	if !errors.Is(err, crypto.ErrWrongKey) || !strings.Contains(hint(err), "more than one line") {
		t.Errorf("other lines: %v; hint %q", err, hint(err))
	}
}
