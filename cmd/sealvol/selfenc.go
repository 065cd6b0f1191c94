package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
)

func selfencCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "selfenc",
		Short: "Encrypt files into a chunk store, and decrypt them",
		Long: `Self-encryption splits a file into chunks, encrypts them, and stores each under the hash
of its bytes. A small map is needed to find and decrypt the chunks.

The encoding v2 needs a tenant secret. Without the secret, nobody can tell what is
stored. The encodings se36 (crate versions 0.35 and 0.36) and se31 (0.30 to 0.34) are
those of the reference implementation, to exchange data with it. With them, anybody who
can guess a file can tell that it is stored, and anybody who has the map can read the
file.`,
		Args: args(0, 0, "a command"),
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(selfencEncryptCommand(), selfencDecryptCommand(), selfencVerifyCommand(), selfencInfoCommand())
	return c
}

// selfencFlags are those of all four commands.
type selfencFlags struct {
	encoding, store, tenantFile string
	json                        bool
	rate                        rateFlags
}

func (f *selfencFlags) register(flags *pflag.FlagSet, encoding, usage string) {
	flags.StringVar(&f.encoding, "encoding", encoding, usage)
	flags.StringVar(&f.store, "store", "", "chunk store: file:///DIR or s3://BUCKET/PREFIX?region=…&endpoint=…&…")
	flags.StringVar(&f.tenantFile, "tenant-file", "", "file with the tenant secret of v2: 32 raw bytes or 64 hexadecimal digits")
	flags.BoolVar(&f.json, "json", false, "print the report as JSON")
}

const encodingOfMap = "encoding of a map that does not record it: se36 or se31"

// mapSuffix is the suffix that the map of a file adds to its name.
const mapSuffix = ".map"

// maxMapFile limits the size of a map file. It is more than any valid map has.
const maxMapFile = 512 << 20

// interruptible returns a context that SIGINT and SIGTERM cancel, so that the command can clean up
// and leave no partial file. A second signal ends the program.
func interruptible(c *cobra.Command) (context.Context, context.CancelFunc) {
	ctx, cancel := signal.NotifyContext(c.Context(), unix.SIGINT, unix.SIGTERM)
	context.AfterFunc(ctx, cancel)
	return ctx, cancel
}

func (f *selfencFlags) wantStore() error {
	if f.store == "" {
		return usageError(errors.New("--store is missing: give file:///DIRECTORY or s3://BUCKET/PREFIX"))
	}
	return nil
}

func (f *selfencFlags) wantTenant(e selfenc.Encoding) error {
	if e == selfenc.V2 && f.tenantFile == "" {
		return usageError(errors.New("encoding v2 needs --tenant-file; `sealvol key generate FILE` creates such a file"))
	}
	return nil
}

func (f *selfencFlags) openStore(ctx context.Context, create bool) (chunkstore.Store, error) {
	if err := f.wantStore(); err != nil {
		return nil, err
	}
	opts, err := f.rate.options(create)
	if err != nil {
		return nil, err
	}
	s, err := chunkstore.OpenWith(ctx, f.store, opts)
	if errors.Is(err, chunkstore.ErrURL) || errors.Is(err, chunkstore.ErrKey) {
		return nil, usageError(fmt.Errorf("--store: %w", err))
	}
	return s, err
}

// sealer returns a Sealer with the tenant secret that was given. end erases its keys.
func (f *selfencFlags) sealer(store chunkstore.Store, o selfenc.Options) (s *selfenc.Sealer, end func(), err error) {
	if err := f.wantTenant(selfenc.V2); err != nil {
		return nil, nil, err
	}
	k, err := readKey(f.tenantFile)
	if err != nil {
		return nil, nil, err
	}
	defer k.Erase()
	keys, err := crypto.DeriveTenantKeys(k)
	if err != nil {
		return nil, nil, err
	}
	var chunks selfenc.ChunkStore
	if store != nil {
		chunks = chunkstore.NewChunks(store, selfenc.V2)
	}
	if s, err = selfenc.NewSealer(keys, crypto.SuiteXChaCha20Poly1305, chunks, o); err != nil {
		keys.Erase()
		return nil, nil, err
	}
	return s, func() {
		s.Close()
		keys.Erase()
	}, nil
}

// selfencReport is the JSON of encrypt, decrypt, verify and info.
type selfencReport struct {
	File      string `json:"file,omitempty"`
	Map       string `json:"map"`
	Encoding  string `json:"encoding"`
	SizeBytes *int64 `json:"sizeBytes,omitempty"` // info: if known
	Chunks    *int64 `json:"chunks,omitempty"`
	// Only info sets these, except Verified.
	MapForm    string  `json:"mapFormat,omitempty"`
	MapLevels  *int    `json:"mapLevels,omitempty"`
	ChunkBytes *int    `json:"chunkBytes,omitempty"`
	Verified   *bool   `json:"verified,omitempty"` // verify
	MapChunks  *uint64 `json:"mapChunks,omitempty"`
}

func (f *selfencFlags) print(w io.Writer, r *selfencReport, format string, args ...any) error {
	if f.json {
		return writeJSON(w, r)
	}
	_, err := fmt.Fprintf(w, format, args...)
	return err
}

// readMap reads a map in any form.
func (f *selfencFlags) readMap(path string) (*selfenc.StoredMap, error) {
	var given selfenc.Encoding
	if f.encoding != "" {
		var err error
		if given, err = selfenc.ParseEncoding(f.encoding); err != nil {
			return nil, usageError(fmt.Errorf("--encoding: %w", err))
		}
	}
	b, err := readLimited(path, maxMapFile)
	if err != nil {
		return nil, err
	}
	m, err := selfenc.ReadStoredMap(b, given)
	switch {
	case errors.Is(err, selfenc.ErrNoEncoding):
		return nil, usageError(fmt.Errorf("%s: %w: give --encoding se36 or se31", printable(path), err))
	case errors.Is(err, selfenc.ErrOtherEncoding):
		return nil, usageError(fmt.Errorf("%s: --encoding %s: %w", printable(path), given, err))
	case err != nil:
		return nil, fmt.Errorf("%s: %w", printable(path), err)
	}
	return m, nil
}

func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: not a map: the file is longer than %s", printable(path), formatSize(limit))
	}
	return b, err
}

// open opens the file of a map for reading. The caller calls end when it is done.
func (f *selfencFlags) open(ctx context.Context, m *selfenc.StoredMap, store chunkstore.Store, o selfenc.Options) (r *selfenc.Reader, end func(), err error) {
	if m.Encoding != selfenc.V2 {
		r, err = selfenc.Open(ctx, m.Encoding, chunkstore.NewChunks(store, m.Encoding), m.DataMap, o)
		return r, func() {}, err
	}
	s, end, err := f.sealer(store, o)
	if err != nil {
		return nil, nil, err
	}
	obj, err := s.OpenObject(m.Sealed)
	if err == nil {
		r, err = s.Open(obj)
	}
	if err != nil {
		end()
		return nil, nil, err
	}
	return r, end, nil
}
