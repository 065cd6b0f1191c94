package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	annotationName    = "io.containerd.image.name"          // containerd uses it to name an imported image
	annotationRefName = "org.opencontainers.image.ref.name" // other tools do
)

// loadArchive reads an archive of one image and checks its name.
func loadArchive(file, tag string) (v1.Image, error) {
	ref, err := name.NewTag(tag)
	if err != nil {
		return nil, err
	}
	img, err := tarball.ImageFromPath(file, &ref)
	if err != nil {
		return nil, fmt.Errorf("%s: no image %s in the archive: %w", file, tag, err)
	}
	return img, nil
}

// asOCI converts an image to OCI media types. Its config and layers keep their bytes, so a node
// that has loaded the archive has everything except the manifest.
func asOCI(img v1.Image) (v1.Image, error) {
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	out := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, l := range layers {
		if out, err = mutate.Append(out, mutate.Addendum{Layer: l, MediaType: types.OCILayer}); err != nil {
			return nil, err
		}
	}
	return mutate.ConfigFile(out, cf)
}

// indexOf returns the index that a tag refers to if there are several architectures.
func indexOf(archs []string, images map[string]v1.Image) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var labels map[string]string
	for _, arch := range archs {
		img, err := asOCI(images[arch])
		if err != nil {
			return nil, err
		}
		cf, err := img.ConfigFile()
		if err != nil {
			return nil, err
		}
		if cf.OS != "linux" || cf.Architecture != arch {
			return nil, fmt.Errorf("the image for %s has the platform %s/%s", arch, cf.OS, cf.Architecture)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: cf.OS, Architecture: cf.Architecture}}})
		labels = cf.Config.Labels
	}
	if annotated, ok := mutate.Annotations(index, labels).(v1.ImageIndex); ok {
		index = annotated
	}
	return index, nil
}

// store is an OCI layout that becomes an archive.
type store struct {
	dir  string
	path layout.Path
}

func newStore(dir string) (*store, error) {
	p, err := layout.Write(dir, empty.Index)
	return &store{dir, p}, err
}

// add adds an image, or an index of images, under a tag and under its digest. So a node that
// imports the archive has the image that charts with pinned digests refer to.
func (s *store) add(tag string, what partial.WithRawManifest) (digest v1.Hash, err error) {
	ref, err := name.NewTag(tag)
	if err != nil {
		return digest, err
	}
	var d *v1.Descriptor
	switch what := what.(type) {
	case v1.ImageIndex:
		if err = s.path.WriteIndex(what); err == nil {
			d, err = partial.Descriptor(what)
		}
	case v1.Image:
		if err = s.path.WriteImage(what); err == nil {
			d, err = partial.Descriptor(what)
		}
	default:
		return digest, fmt.Errorf("%T is not an image", what)
	}
	if err != nil {
		return digest, fmt.Errorf("%s: %w", tag, err)
	}
	full := hostOf(ref) + "/" + ref.RepositoryStr()
	d.Annotations = map[string]string{annotationName: full + ":" + ref.TagStr(), annotationRefName: full + ":" + ref.TagStr()}
	if err := s.path.AppendDescriptor(*d); err != nil {
		return digest, err
	}
	d.Annotations = map[string]string{annotationName: full + "@" + d.Digest.String()}
	return d.Digest, s.path.AppendDescriptor(*d)
}

// hostOf returns the name that nodes use for a registry.
func hostOf(ref name.Reference) string {
	if host := ref.Context().RegistryStr(); host != name.DefaultRegistry {
		return host
	}
	return "docker.io"
}

// archive writes the layout as a tar file. oci-layout, by which readers recognise it, comes first.
func (s *store) archive(out string) error {
	blobs, err := tree(filepath.Join(s.dir, "blobs"), "blobs/")
	if err != nil {
		return err
	}
	var list []entry
	for _, f := range []string{"oci-layout", "index.json"} {
		list = append(list, entry{name: f, mode: 0o644, file: filepath.Join(s.dir, f)})
	}
	return writeTarFile(out, append(list, blobs...))
}

// tagged is an image, or an index of images, of a layout.
type tagged struct {
	ref    name.Tag
	digest v1.Hash
	index  v1.ImageIndex // or
	image  v1.Image
}

// openArchive unpacks an archive into dir and lists its tagged images.
func openArchive(file, dir string) (list []tagged, err error) {
	if err := unpack(file, dir); err != nil {
		return nil, err
	}
	root, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	m, err := root.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, d := range m.Manifests {
		ref := d.Annotations[annotationRefName]
		if ref == "" {
			continue // another name of the image, by digest
		}
		t := tagged{digest: d.Digest}
		if t.ref, err = name.NewTag(ref); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if d.MediaType.IsIndex() {
			t.index, err = root.ImageIndex(d.Digest)
		} else {
			t.image, err = root.Image(d.Digest)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", file, ref, err)
		}
		list = append(list, t)
	}
	return list, nil
}

// content reads the files of an image that a release also has outside of it: its program and its
// list of modules.
func content(img v1.Image) (program entry, bill []byte, err error) {
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		return program, nil, errors.Join(err, fmt.Errorf("%d layers, want 1", len(layers)))
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		return program, nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	err = readTar(r, func(at string, mode int64, r io.Reader) error {
		switch {
		case !strings.Contains(at, "/"):
			program = entry{name: at, mode: mode}
			program.data, err = io.ReadAll(r)
		case path.Dir(at) == "usr/share/sbom":
			bill, err = io.ReadAll(r)
		}
		return err
	})
	if err == nil && (program.data == nil || bill == nil) {
		err = errors.New("the image has no program or no list of its modules")
	}
	return program, bill, err
}

// architectures returns the architectures for which a directory has archives of an image.
func architectures(dir, image string) (list []string, err error) {
	files, err := filepath.Glob(filepath.Join(dir, image+"-*.tar"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		list = append(list, strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), image+"-"), ".tar"))
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: %w: %s-ARCH.tar", dir, os.ErrNotExist, image)
	}
	return list, nil // Glob sorts
}
