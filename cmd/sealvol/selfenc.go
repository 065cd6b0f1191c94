package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/atomicfile"
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

type selfencEncrypt struct {
	selfencFlags
	mapPath, mapForm string
	chunkSize        byteSize
	force            bool
}

func selfencEncryptCommand() *cobra.Command {
	var o selfencEncrypt
	c := &cobra.Command{
		Use:   "encrypt --store URL [flags] FILE",
		Short: "Encrypt a file into a chunk store",
		Long: `Encrypt FILE ("-" is standard input) into a store and write its map, FILE.map by default,
with mode 0600. The map is written last: if it is there, every chunk is.

The map of v2 is sealed with the tenant secret. The map of se36 and se31 is as secret as
the file itself.`,
		Example: `  sealvol key generate tenant.key
  sealvol selfenc encrypt --tenant-file tenant.key --store file:///srv/chunks disk.img
  sealvol selfenc encrypt --encoding se36 --map-format v1 --store file:///srv/chunks disk.img`,
		Args: args(1, 1, "one FILE"),
		RunE: func(c *cobra.Command, a []string) error { return o.run(c, a[0]) },
	}
	f := c.Flags()
	o.register(f, "v2", "how: v2, se36 or se31")
	f.StringVar(&o.mapPath, "map", "", "where the map is written; FILE.map by default")
	f.StringVar(&o.mapForm, "map-format", "file", "form of the map: file, which says its encoding, or the reference's v1, v0c (se31) or json")
	f.Var(&o.chunkSize, "chunk-size", "most plaintext in a chunk; v2: 64KiB to 4MiB, 1MiB by default")
	f.BoolVar(&o.force, "force", false, "overwrite a map that is there")
	return c
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

func (o *selfencEncrypt) run(c *cobra.Command, file string) error {
	e, form, err := o.check(file)
	if err != nil {
		return err
	}
	if !o.force {
		if _, err := os.Lstat(o.mapPath); err == nil {
			return withHint(fmt.Errorf("%s: %w", o.mapPath, os.ErrExist), "give another name with --map, or repeat with --force")
		}
	}
	ctx, cancel := interruptible(c)
	defer cancel()
	in, size, err := openInput(ctx, c.InOrStdin(), file)
	if err != nil {
		return err
	}
	defer discard(in)
	store, err := o.openStore(ctx, true)
	if err != nil {
		return err
	}
	defer discard(store)
	bar := newProgress("encrypt")
	defer bar.end()
	var done selfenc.Progress
	opts := selfenc.Options{ChunkBytes: int(o.chunkSize), Progress: func(p selfenc.Progress) {
		done = p
		bar.set(uint64(p.DoneBytes), uint64(max(size, p.DoneBytes)))
	}}
	b, err := o.encrypt(ctx, e, form, store, in, opts)
	if errors.Is(err, selfenc.ErrInvalidChunkSize) {
		return usageError(fmt.Errorf("--chunk-size: %w", err))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", printable(file), err)
	}
	bar.end()
	if err := atomicfile.Write(o.mapPath, b, atomicfile.Options{New: !o.force}); err != nil {
		return err
	}
	r := &selfencReport{File: file, Map: o.mapPath, Encoding: e.String(), SizeBytes: &done.DoneBytes, Chunks: &done.Chunks}
	return o.print(c.OutOrStdout(), r, "%s: %s in %d chunks, %s; its map is %s\n", printable(file), formatSize(done.DoneBytes), done.Chunks, e, printable(o.mapPath))
}

func (o *selfencEncrypt) check(file string) (selfenc.Encoding, selfenc.MapForm, error) {
	e, err := selfenc.ParseEncoding(o.encoding)
	if err != nil {
		return 0, 0, usageError(fmt.Errorf("--encoding: %w", err))
	}
	if o.chunkSize < 0 || o.chunkSize > 64<<20 {
		return 0, 0, usageError(fmt.Errorf("--chunk-size %s is too large", o.chunkSize.String()))
	}
	if err := errors.Join(o.wantStore(), o.wantTenant(e)); err != nil {
		return 0, 0, err
	}
	if o.mapPath == "" {
		if file == "-" {
			return 0, 0, usageError(errors.New("standard input needs --map"))
		}
		o.mapPath = file + mapSuffix
	}
	if o.mapForm == "file" {
		return e, 0, nil
	}
	form, err := selfenc.ParseMapForm(o.mapForm)
	if err != nil || e == selfenc.V2 || form == selfenc.MapV0 || form == selfenc.MapV0C && e != selfenc.SE31 {
		return 0, 0, usageError(fmt.Errorf("--map-format %s: an %s map can not have it", o.mapForm, e))
	}
	return e, form, nil
}

// encrypt returns what is written as the map.
func (o *selfencEncrypt) encrypt(ctx context.Context, e selfenc.Encoding, form selfenc.MapForm, store chunkstore.Store, in io.Reader, opts selfenc.Options) ([]byte, error) {
	if e == selfenc.V2 {
		s, end, err := o.sealer(store, opts)
		if err != nil {
			return nil, err
		}
		defer end()
		obj, err := s.Encrypt(ctx, in)
		if err != nil {
			return nil, err
		}
		b, err := s.SealObject(obj)
		return selfenc.EncodeMapFile(e, b), err
	}
	switch form { // versions that read a form want the levels below in it, too
	case selfenc.MapV1, selfenc.MapJSON:
		opts.MapForm = selfenc.MapV1
	case selfenc.MapV0C:
		opts.MapForm = selfenc.MapV0C
	}
	m, err := selfenc.EncryptTo(ctx, e, chunkstore.NewChunks(store, e), in, opts)
	if err != nil {
		return nil, err
	}
	if form != 0 {
		return m.Encode(form)
	}
	b, err := m.Encode(selfenc.MapV1)
	return selfenc.EncodeMapFile(e, b), err
}

func (f *selfencFlags) print(w io.Writer, r *selfencReport, format string, args ...any) error {
	if f.json {
		return writeJSON(w, r)
	}
	_, err := fmt.Fprintf(w, format, args...)
	return err
}

// openInput opens a file to read, or standard input; size is 0 if unknown.
func openInput(ctx context.Context, stdin io.Reader, file string) (io.ReadCloser, int64, error) {
	if file == "-" {
		return io.NopCloser(newPatientReader(ctx, stdin)), 0, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err == nil && fi.IsDir() {
		err = fmt.Errorf("%s: %w", printable(file), unix.EISDIR)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, fi.Size(), nil
}

// patientReader reads what may never come: a pipe, a terminal. Its Read ends with
// the context; the one that waits below then waits until the program ends.
type patientReader struct {
	ctx  context.Context //nolint:containedctx // of the one command that it lives for
	from chan piece
	back chan []byte
	rest []byte
	held []byte // what rest is a part of
	err  error
}

type piece struct {
	data []byte
	err  error
}

func newPatientReader(ctx context.Context, r io.Reader) *patientReader {
	p := &patientReader{ctx: ctx, from: make(chan piece), back: make(chan []byte, 2)}
	for range cap(p.back) {
		p.back <- make([]byte, 64<<10) // what a pipe has at once
	}
	go func() {
		for {
			var b []byte
			select {
			case b = <-p.back:
			case <-ctx.Done():
				return
			}
			n, err := r.Read(b)
			select {
			case p.from <- piece{b[:n], err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return p
}

func (p *patientReader) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.held != nil {
			p.back <- p.held[:cap(p.held)] // never full
			p.held = nil
		}
		if p.err != nil {
			return 0, p.err
		}
		select {
		case got := <-p.from:
			p.held, p.rest, p.err = got.data, got.data, got.err
		case <-p.ctx.Done():
			return 0, context.Cause(p.ctx)
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// selfencMap is a map that was read.
type selfencMap struct {
	encoding selfenc.Encoding
	form     string           // "file", or of the reference's
	dataMap  *selfenc.DataMap // of the reference's encodings
	sealed   []byte           // of v2
}

// readMap reads a map in any form.
func (f *selfencFlags) readMap(path string) (*selfencMap, error) {
	b, err := readLimited(path, maxMapFile)
	if err != nil {
		return nil, err
	}
	m := &selfencMap{form: "file"}
	if selfenc.IsMapFile(b) {
		m.encoding, b, err = selfenc.DecodeMapFile(b)
		if err == nil && f.encoding != "" && f.encoding != m.encoding.String() {
			err = usageError(fmt.Errorf("--encoding %s: the map says %s", f.encoding, m.encoding))
		}
		if err == nil && m.encoding == selfenc.V2 {
			m.sealed = b
			return m, nil
		}
		if err == nil {
			m.dataMap, _, err = selfenc.DecodeDataMap(b)
		}
	} else {
		var form selfenc.MapForm
		if m.dataMap, form, err = selfenc.DecodeDataMap(b); err == nil {
			m.form = form.String()
			m.encoding, err = f.encodingOf(form)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", printable(path), err)
	}
	return m, nil
}

// encodingOf is what a map without a file's header belongs to.
func (f *selfencFlags) encodingOf(form selfenc.MapForm) (selfenc.Encoding, error) {
	if f.encoding == "" {
		if form == selfenc.MapV0 || form == selfenc.MapV0C {
			return selfenc.SE31, nil
		}
		return 0, usageError(fmt.Errorf("a map of the form %s does not say its encoding: give --encoding se36 or se31", form))
	}
	e, err := selfenc.ParseEncoding(f.encoding)
	if err != nil || e == selfenc.V2 || e == selfenc.SE36 && form != selfenc.MapV1 && form != selfenc.MapJSON {
		return 0, usageError(fmt.Errorf("--encoding %s: a map of the form %s is not of it", f.encoding, form))
	}
	return e, nil
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
func (f *selfencFlags) open(ctx context.Context, m *selfencMap, store chunkstore.Store, o selfenc.Options) (r *selfenc.Reader, end func(), err error) {
	if m.encoding != selfenc.V2 {
		r, err = selfenc.Open(ctx, m.encoding, chunkstore.NewChunks(store, m.encoding), m.dataMap, o)
		return r, func() {}, err
	}
	s, end, err := f.sealer(store, o)
	if err != nil {
		return nil, nil, err
	}
	obj, err := s.OpenObject(m.sealed)
	if err == nil {
		r, err = s.Open(obj)
	}
	if err != nil {
		end()
		return nil, nil, err
	}
	return r, end, nil
}

// read passes all of what a map is of to w.
func (f *selfencFlags) read(ctx context.Context, path, what string, w io.Writer) (*selfencReport, error) {
	m, err := f.readMap(path)
	if err != nil {
		return nil, err
	}
	store, err := f.openStore(ctx, false)
	if err != nil {
		return nil, err
	}
	defer discard(store)
	bar := newProgress(what)
	defer bar.end()
	size := int64(0)
	r, end, err := f.open(ctx, m, store, selfenc.Options{Progress: func(p selfenc.Progress) { bar.set(uint64(p.DoneBytes), uint64(size)) }})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", printable(path), err)
	}
	defer end()
	size = r.Size()
	if err := r.Copy(ctx, w, 0, size); err != nil {
		return nil, fmt.Errorf("%s: %w", printable(path), err)
	}
	n := r.Chunks()
	return &selfencReport{Map: path, Encoding: m.encoding.String(), SizeBytes: &size, Chunks: &n}, nil
}

func selfencDecryptCommand() *cobra.Command {
	var o selfencFlags
	var output string
	var force bool
	c := &cobra.Command{
		Use:   "decrypt --store URL [flags] FILE",
		Short: "Decrypt a file from a chunk store",
		Long: `Decrypt what the map FILE is of. It is written to FILE without ".map", or to --output; "-"
is standard output. A file gets its name when it is whole and every byte was verified;
what comes to standard output before an error is verified, too.`,
		Example: `  sealvol selfenc decrypt --tenant-file tenant.key --store file:///srv/chunks disk.img.map
  sealvol selfenc decrypt --encoding se36 --store file:///srv/chunks --output - map.bin`,
		Args: args(1, 1, "one FILE"),
		RunE: func(c *cobra.Command, a []string) error {
			ctx, cancel := interruptible(c)
			defer cancel()
			if output == "-" {
				if o.json {
					return usageError(errors.New("--json and the data can not share standard output"))
				}
				_, err := o.read(ctx, a[0], "decrypt", c.OutOrStdout())
				return err
			}
			return decryptFile(ctx, &o, c.OutOrStdout(), a[0], output, force)
		},
	}
	o.register(c.Flags(), "", encodingOfMap)
	c.Flags().StringVar(&output, "output", "", "where to write; FILE without .map by default, - is standard output")
	c.Flags().BoolVar(&force, "force", false, "overwrite a file that is there")
	return c
}

func decryptFile(ctx context.Context, o *selfencFlags, report io.Writer, path, output string, force bool) error {
	if output == "" {
		var ok bool
		if output, ok = strings.CutSuffix(path, mapSuffix); !ok || output == "" {
			return usageError(fmt.Errorf("%s does not end in %s: say where to write with --output", printable(path), mapSuffix))
		}
	}
	if _, err := os.Lstat(output); err == nil && !force {
		return withHint(fmt.Errorf("%s: %w", printable(output), os.ErrExist), "give another name with --output, or repeat with --force")
	}
	f, err := atomicfile.Create(output, atomicfile.Options{New: !force})
	if err != nil {
		return err
	}
	defer f.Discard()
	r, err := o.read(ctx, path, "decrypt", f)
	if err != nil {
		return err
	}
	if err := f.Commit(); err != nil {
		return err
	}
	r.File = output
	return o.print(report, r, "%s: %s, %s\n", printable(output), formatSize(*r.SizeBytes), r.Encoding)
}

func selfencVerifyCommand() *cobra.Command {
	var o selfencFlags
	c := &cobra.Command{
		Use:   "verify --store URL [flags] FILE",
		Short: "Read and verify every chunk of a map",
		Long: `Decrypt everything that the map FILE is of, and write it nowhere. If it succeeds, decrypt
would give back every byte.`,
		Example: `  sealvol selfenc verify --tenant-file tenant.key --store file:///srv/chunks disk.img.map`,
		Args:    args(1, 1, "one FILE"),
		RunE: func(c *cobra.Command, a []string) error {
			ctx, cancel := interruptible(c)
			defer cancel()
			r, err := o.read(ctx, a[0], "verify", io.Discard)
			if err != nil {
				return err
			}
			yes := true
			r.Verified = &yes
			return o.print(c.OutOrStdout(), r, "%s: %s in %d chunks, %s: all is there\n", printable(a[0]), formatSize(*r.SizeBytes), *r.Chunks, r.Encoding)
		},
	}
	o.register(c.Flags(), "", encodingOfMap)
	return c
}

func selfencInfoCommand() *cobra.Command {
	var o selfencFlags
	c := &cobra.Command{
		Use:   "info [flags] FILE",
		Short: "Show what a map says",
		Long: `Show what the map FILE says, without its secrets. A map of v2 says nothing without the
tenant secret; a map of se36 or se31 with levels says how large the file is only with
--store.`,
		Example: `  sealvol selfenc info --tenant-file tenant.key disk.img.map
  sealvol selfenc info --encoding se36 --store file:///srv/chunks --json map.bin`,
		Args: args(1, 1, "one FILE"),
		RunE: func(c *cobra.Command, a []string) error {
			ctx, cancel := interruptible(c)
			defer cancel()
			r, err := o.info(ctx, a[0])
			if err != nil {
				return err
			}
			return o.print(c.OutOrStdout(), r, "%s", r.text())
		},
	}
	o.register(c.Flags(), "", encodingOfMap)
	return c
}

func (f *selfencFlags) info(ctx context.Context, path string) (*selfencReport, error) {
	m, err := f.readMap(path)
	if err != nil {
		return nil, err
	}
	r := &selfencReport{Map: path, Encoding: m.encoding.String(), MapForm: m.form}
	if m.encoding == selfenc.V2 {
		return r, f.infoV2(r, m)
	}
	levels, chunks := int(m.dataMap.Child), uint64(len(m.dataMap.Chunks))
	r.MapLevels, r.MapChunks = &levels, &chunks
	root := m.dataMap
	if root.Child != 0 {
		if f.store == "" {
			return r, nil
		}
		store, err := f.openStore(ctx, false)
		if err != nil {
			return nil, err
		}
		defer discard(store)
		if root, err = selfenc.RootMap(ctx, m.encoding, chunkstore.NewChunks(store, m.encoding), root, selfenc.Options{}); err != nil {
			return nil, fmt.Errorf("%s: %w", printable(path), err)
		}
	}
	size, n, largest := root.PlainBytes(), int64(len(root.Chunks)), int(root.Chunks[0].SrcBytes)
	r.SizeBytes, r.Chunks, r.ChunkBytes = &size, &n, &largest
	return r, nil
}

func (f *selfencFlags) infoV2(r *selfencReport, m *selfencMap) error {
	if f.tenantFile == "" {
		return nil
	}
	s, end, err := f.sealer(nil, selfenc.Options{})
	if err != nil {
		return err
	}
	defer end()
	obj, err := s.OpenObject(m.sealed)
	if err != nil {
		return fmt.Errorf("%s: %w", printable(r.Map), err)
	}
	n, levels := obj.Chunks(), obj.Levels()
	r.SizeBytes, r.Chunks, r.ChunkBytes, r.MapLevels = &obj.Bytes, &n, &obj.ChunkBytes, &levels
	return nil
}

func (r *selfencReport) text() string {
	var b bytes.Buffer
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-14s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	line("Map", "%s", printable(r.Map))
	line("Encoding", "%s", r.Encoding)
	line("Form", "%s", r.MapForm)
	if r.MapLevels != nil {
		line("Levels", "%d", *r.MapLevels)
	}
	switch {
	case r.SizeBytes != nil:
		line("Size", "%s", formatSize(*r.SizeBytes))
		line("Chunks", "%d of %s", *r.Chunks, formatSize(int64(*r.ChunkBytes)))
	case r.Encoding == selfenc.V2.String():
		line("Size", "sealed: give --tenant-file")
	default:
		line("Size", "in the map's levels: give --store")
	}
	return b.String()
}
