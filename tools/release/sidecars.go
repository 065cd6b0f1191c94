package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const sidecarsFile = "sidecars.oci.tar"

// saver fetches the third-party images that a release's chart installs, for registries and nodes
// that cannot reach theirs.
type saver struct {
	dist, from string
	insecure   bool
}

// save writes the images beside the release. The release's checksums do not cover them, because
// they are third-party.
func (s *saver) save(ctx context.Context) (err error) {
	c, err := openChart(s.dist)
	if err != nil {
		return err
	}
	refs, err := c.sidecars()
	if err != nil {
		return err
	}
	slices.Sort(refs)
	work, err := os.MkdirTemp(s.dist, ".sidecars-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	st, err := newStore(filepath.Join(work, "layout"))
	if err != nil {
		return err
	}
	get, err := s.source(ctx)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		img, err := get(ref)
		if err != nil {
			return fmt.Errorf("%s: %w", ref, err)
		}
		tag, pinned, _ := strings.Cut(ref, "@")
		digest, err := st.add(tag, img)
		if err != nil {
			return err
		}
		if pinned != "" && pinned != digest.String() {
			return fmt.Errorf("%s: the source has the digest %s", ref, digest)
		}
	}
	tmp := filepath.Join(work, sidecarsFile)
	if err := st.archive(tmp); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(s.dist, sidecarsFile))
}

// source returns a function that gets an image, from a directory of archives or from a registry.
func (s *saver) source(ctx context.Context) (func(ref string) (partial.WithRawManifest, error), error) {
	if info, err := os.Stat(s.from); err == nil && info.IsDir() {
		archives, err := s.archives()
		return func(ref string) (partial.WithRawManifest, error) {
			tag, _, _ := strings.Cut(ref, "@")
			img, ok := archives[tag]
			if !ok {
				return nil, fmt.Errorf("no archive in %s has this image", s.from)
			}
			return img, nil
		}, err
	}
	return func(ref string) (partial.WithRawManifest, error) { return s.pull(ctx, ref) }, nil
}

// archives returns the images in a directory of archives, by name.
func (s *saver) archives() (map[string]v1.Image, error) {
	files, err := filepath.Glob(filepath.Join(s.from, "*.tar"))
	if err != nil {
		return nil, err
	}
	all := map[string]v1.Image{}
	for _, f := range files {
		m, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(f) })
		if err != nil {
			continue // an archive of something else
		}
		for _, d := range m {
			for _, tag := range d.RepoTags {
				ref, err := name.NewTag(tag)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", f, err)
				}
				if all[tag], err = tarball.ImageFromPath(f, &ref); err != nil {
					return nil, fmt.Errorf("%s: %w", f, err)
				}
			}
		}
	}
	return all, nil
}

// pull gets an image from a registry: for the architectures of a release, or all of it if it is
// pinned, because a digest covers a whole index.
func (s *saver) pull(ctx context.Context, ref string) (partial.WithRawManifest, error) {
	from, err := name.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	if s.from != "" {
		if from, err = moved(from, s.from, s.insecure); err != nil {
			return nil, err
		}
	}
	d, err := remote.Get(from, options(ctx)...)
	if err != nil {
		return nil, err
	}
	if !d.MediaType.IsIndex() {
		return d.Image()
	}
	index, err := d.ImageIndex()
	if err != nil || strings.Contains(ref, "@") {
		return index, err
	}
	return mutate.RemoveManifests(index, func(d v1.Descriptor) bool {
		p := d.Platform
		return p == nil || p.OS != "linux" || p.Architecture != "amd64" && p.Architecture != "arm64"
	}), nil
}

// moved returns the same path at another registry.
func moved(ref name.Reference, registry string, insecure bool) (name.Reference, error) {
	sep := ":"
	if _, pinned := ref.(name.Digest); pinned {
		sep = "@"
	}
	return name.ParseReference(strings.TrimSuffix(registry, "/")+"/"+ref.Context().RepositoryStr()+sep+ref.Identifier(), nameOptions(insecure)...)
}
