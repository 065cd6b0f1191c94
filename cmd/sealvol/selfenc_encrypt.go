package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/atomicfile"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
)

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
		Long: `Encrypt FILE into a store, and write its map to FILE.map with mode 0600. "-" is standard
input. The map is written last: if it exists, all chunks are stored.

A v2 map is encrypted with the tenant secret. A se36 or se31 map is not: keep it as
secret as the file itself.`,
		Example: `  sealvol key generate tenant.key
  sealvol selfenc encrypt --tenant-file tenant.key --store file:///srv/chunks disk.img
  sealvol selfenc encrypt --encoding se36 --map-format v1 --store file:///srv/chunks disk.img`,
		Args: args(1, 1, "one FILE"),
		RunE: func(c *cobra.Command, a []string) error { return o.run(c, a[0]) },
	}
	f := c.Flags()
	o.register(f, "v2", "encoding: v2, se36 or se31")
	f.StringVar(&o.mapPath, "map", "", "output file for the map (default: FILE.map)")
	f.StringVar(&o.mapForm, "map-format", "file", "form of the map: file, which records its encoding, or the reference's v1, v0c (se31) or json")
	f.Var(&o.chunkSize, "chunk-size", "maximum size of a chunk; for v2 64KiB to 4MiB (default 1MiB)")
	f.BoolVar(&o.force, "force", false, "overwrite an existing map")
	o.rate.registerUpload(f)
	return c
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
		return 0, 0, usageError(fmt.Errorf("--chunk-size %s: too large, the maximum is 64MiB", o.chunkSize.String()))
	}
	if err := errors.Join(o.wantStore(), o.wantTenant(e)); err != nil {
		return 0, 0, err
	}
	if o.mapPath == "" {
		if file == "-" {
			return 0, 0, usageError(errors.New("--map is missing: it is required for standard input"))
		}
		o.mapPath = file + mapSuffix
	}
	if o.mapForm == "file" {
		return e, 0, nil
	}
	form, err := selfenc.ParseMapForm(o.mapForm)
	if err == nil {
		err = e.CheckMapForm(form)
	}
	if err != nil {
		return 0, 0, usageError(fmt.Errorf("--map-format: %w", err))
	}
	return e, form, nil
}

// encrypt stores the chunks and returns the contents of the map file.
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
	opts.MapForm = form.Levels()
	m, err := selfenc.EncryptTo(ctx, e, chunkstore.NewChunks(store, e), in, opts)
	if err != nil {
		return nil, err
	}
	return m.Stored(e, form)
}
