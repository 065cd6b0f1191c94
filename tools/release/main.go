package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

const usage = "usage: release build|pin-sidecars|sidecars|push|changelog|chart-readme|registry [FLAGS]; -help after a command lists its flags"

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	fs := flag.NewFlagSet("release "+args[0], flag.ContinueOnError)
	var work func() error
	switch args[0] {
	case "build":
		var b builder
		fs.StringVar(&b.version, "version", "", "the version, vX.Y.Z or vX.Y.Z-PRE")
		fs.StringVar(&b.images, "images", "", "the directory that tools/images has written; its files are moved")
		fs.StringVar(&b.out, "out", "", "the directory to write; an existing one is replaced")
		fs.StringVar(&b.key, "key", "", "a P-256 key in PEM that signs the checksums")
		fs.StringVar(&b.root, "root", ".", "the root of the sources")
		work = b.build
	case "sidecars":
		var s saver
		fs.StringVar(&s.dist, "dist", "", "the directory of the release")
		fs.StringVar(&s.from, "from", "", "a registry, or a directory of docker save archives; default: the chart's registry")
		fs.BoolVar(&s.insecure, "insecure", false, "the registry speaks HTTP")
		work = func() error { return s.save(ctx) }
	case "pin-sidecars":
		var p pinner
		fs.StringVar(&p.root, "root", ".", "the root of the sources")
		fs.StringVar(&p.from, "from", "", "a registry that has the images; default: the chart's registry")
		fs.BoolVar(&p.insecure, "insecure", false, "the registry speaks HTTP")
		work = func() error { return p.pin(ctx, os.Stdout) }
	case "push":
		var p pusher
		fs.StringVar(&p.dist, "dist", "", "the directory of the release")
		fs.StringVar(&p.registry, "registry", "", "the registry to push to, HOST[:PORT][/PATH]")
		fs.BoolVar(&p.insecure, "insecure", false, "the registry speaks HTTP; always allowed for loopback and private addresses")
		fs.BoolVar(&p.force, "force", false, "replace tags that exist with other content")
		work = func() error { return p.push(ctx, os.Stdout) }
	case "changelog":
		root := fs.String("root", ".", "the root of the sources")
		version := fs.String("version", "", "the version")
		work = func() error { return foldChangelog(*root, *version, time.Now().UTC()) }
	case "chart-readme":
		root := fs.String("root", ".", "the root of the sources")
		work = func() error { return chartReadme(*root) }
	case "registry":
		listen := fs.String("listen", "127.0.0.1:5000", "the address to listen on; everybody who can reach it can read and write")
		dir := fs.String("dir", "", "the directory of blobs; default: in memory")
		work = func() error { return serve(ctx, *listen, *dir, os.Stdout) }
	default:
		return errors.New(usage)
	}
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", fs.Arg(0))
	}
	return work()
}
