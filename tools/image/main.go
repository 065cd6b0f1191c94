// Command image writes a container image from local files only: no base image, no registry, no
// container engine.
//
//	image -o IMAGE.tar -t NAME:TAG [-arch arm64] [-user 65532] [-entrypoint /a] [-cmd "sh -c true"] [-env K=V]... [-label K=V]... [-sbom] SRC=DEST...
//
// SRC is a file, or a directory whose tree is copied to DEST. A DEST that ends in "/" keeps the
// name of SRC. An empty SRC creates an empty directory at DEST. SRC "@TARGET" creates a symbolic
// link to TARGET at DEST. With -sbom, the image has a list of the modules of each Go program below
// /usr/share/sbom; TAG is the version of programs that have none.
//
// The same input gives the same result: times are zero, owners are root, permissions are 0755 or
// 0644, and this program compresses the layer with gzip. `docker load` and `ctr images import` read
// the result.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// options describe an image.
type options struct {
	out, tag         string
	arch, user       string
	entrypoint, cmd  string
	env, labels, src list
	sbom             bool
}

type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	var o options
	flag.StringVar(&o.out, "o", "", "the tarball to write")
	flag.StringVar(&o.tag, "t", "", "the name and tag of the image")
	flag.StringVar(&o.arch, "arch", runtime.GOARCH, "the architecture, by Go's name")
	flag.StringVar(&o.user, "user", "", "the user of the program; default: root")
	flag.StringVar(&o.entrypoint, "entrypoint", "", "the entrypoint, split at spaces")
	flag.StringVar(&o.cmd, "cmd", "", "the command, split at spaces")
	flag.Var(&o.env, "env", "an environment variable, K=V; may be repeated")
	flag.Var(&o.labels, "label", "a label, K=V; may be repeated")
	flag.BoolVar(&o.sbom, "sbom", false, "add lists of the modules of Go programs")
	flag.Parse()
	o.src = flag.Args()
	if o.out == "" || o.tag == "" || len(o.src) == 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := write(o); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// write creates the image and renames it to its place.
func write(o options) (err error) {
	ref, err := name.NewTag(o.tag)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(o.out), ".image-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	layerFile := filepath.Join(dir, "layer.tar")
	if err := writeLayer(layerFile, o.src, o.sbom, ref.TagStr()); err != nil {
		return err
	}
	layer, err := tarball.LayerFromFile(layerFile, tarball.WithCompressionLevel(1))
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	if img, err = configure(img, o); err != nil {
		return err
	}
	tmp := filepath.Join(dir, "image.tar")
	if err := tarball.WriteToFile(tmp, ref, img); err != nil {
		return err
	}
	return os.Rename(tmp, o.out)
}

func configure(img v1.Image, o options) (v1.Image, error) {
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", o.arch
	cf.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	c := &cf.Config
	c.User = o.user
	c.Entrypoint, c.Cmd = strings.Fields(o.entrypoint), strings.Fields(o.cmd)
	c.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, o.env...)
	for _, l := range o.labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok {
			return nil, fmt.Errorf("label %q is not K=V", l)
		}
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		c.Labels[k] = v
	}
	return mutate.ConfigFile(img, cf)
}
