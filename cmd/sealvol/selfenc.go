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
		Short: "Encrypt a file into a chunk store, and back",
		Long: `Self-encryption cuts a file into chunks, encrypts them and puts them into a store under
the hashes of their bytes. A small map finds and opens them.

Encodings: v2 needs a tenant secret, and nobody without it can tell what is stored. se36
and se31 are those of the reference implementation (crate versions 0.35 and 0.36; 0.30
to 0.34), to exchange data with it: whoever can guess a file can tell that it is stored,
and whoever has the map has the file.`,
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
}

func (f *selfencFlags) register(flags *pflag.FlagSet, encoding, usage string) {
	flags.StringVar(&f.encoding, "encoding", encoding, usage)
	flags.StringVar(&f.store, "store", "", "where the chunks are: file:///DIR, or s3://BUCKET/PREFIX?region=…&endpoint=…&…")
	flags.StringVar(&f.tenantFile, "tenant-file", "", "file with the tenant secret of v2: 32 raw bytes or 64 hexadecimal digits")
	flags.BoolVar(&f.json, "json", false, "print the report as JSON")
}

const encodingOfMap = "encoding of a map that does not say it: se36 or se31"

// mapSuffix is what the map of a file is called after it.
const mapSuffix = ".map"

// maxMapFile is more than any map that is read.
const maxMapFile = 512 << 20

// interruptible ends with SIGINT and SIGTERM: what was begun is given up in
// order, and no half file stays. A second signal ends the program.
func interruptible(c *cobra.Command) (context.Context, context.CancelFunc) {
	ctx, cancel := signal.NotifyContext(c.Context(), unix.SIGINT, unix.SIGTERM)
	context.AfterFunc(ctx, cancel)
	return ctx, cancel
}

func (f *selfencFlags) wantStore() error {
	if f.store == "" {
		return usageError(errors.New("--store is missing"))
	}
	return nil
}

func (f *selfencFlags) wantTenant(e selfenc.Encoding) error {
	if e == selfenc.V2 && f.tenantFile == "" {
		return usageError(errors.New("v2 needs --tenant-file; `sealvol key generate FILE` makes one"))
	}
	return nil
}

func (f *selfencFlags) openStore(ctx context.Context, create bool) (chunkstore.Store, error) {
	if err := f.wantStore(); err != nil {
		return nil, err
	}
	s, err := chunkstore.Open(ctx, f.store, create)
	if errors.Is(err, chunkstore.ErrURL) || errors.Is(err, chunkstore.ErrKey) {
		return nil, usageError(fmt.Errorf("--store: %w", err))
	}
	return s, err
}

// sealer opens v2 for the tenant whose secret was given. end erases its keys.
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
	SizeBytes *int64 `json:"sizeBytes,omitempty"` // info: where it can be told
	Chunks    *int64 `json:"chunks,omitempty"`
	// Info alone.
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
	var said selfenc.Encoding
	if f.encoding != "" {
		var err error
		if said, err = selfenc.ParseEncoding(f.encoding); err != nil {
			return nil, usageError(fmt.Errorf("--encoding: %w", err))
		}
	}
	b, err := readLimited(path, maxMapFile)
	if err != nil {
		return nil, err
	}
	m, err := selfenc.ReadStoredMap(b, said)
	switch {
	case errors.Is(err, selfenc.ErrNoEncoding):
		return nil, usageError(fmt.Errorf("%s: %w: give --encoding se36 or se31", printable(path), err))
	case errors.Is(err, selfenc.ErrOtherEncoding):
		return nil, usageError(fmt.Errorf("%s: --encoding %s: %w", printable(path), said, err))
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
		err = fmt.Errorf("%s: no map is longer than %s", printable(path), formatSize(limit))
	}
	return b, err
}

// open opens what a map is of. end comes when all is read.
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
