package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// images are the images of a release. The chart contains their digests.
var images = []string{"driver", "operator", "cli"}

// builder creates a release.
type builder struct {
	version, images, out, key, root string
	archs                           []string
	store                           *store
	digests                         map[string]v1.Hash
	programs                        map[string][]entry // by architecture
}

// versions excludes SemVer's build metadata, because a tag cannot contain a plus sign.
var versions = regexp.MustCompile(`^v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$`)

func checkVersion(version string) error {
	if !versions.MatchString(version) {
		return fmt.Errorf("version %q is not vX.Y.Z or vX.Y.Z-PRE, such as v0.1.0 or v0.1.0-rc.1", version)
	}
	return nil
}

// build writes the release into a temporary directory and then renames it to its place.
func (b *builder) build() (err error) {
	if err := checkVersion(b.version); err != nil {
		return err
	}
	if b.images == "" || b.out == "" {
		return errors.New("the flags -images and -out are required")
	}
	if err := os.MkdirAll(filepath.Dir(b.out), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(b.out), ".release-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	final := b.out
	b.out = filepath.Join(work, "out")
	if err := os.Mkdir(b.out, 0o755); err != nil {
		return err
	}
	if b.store, err = newStore(filepath.Join(work, "layout")); err != nil {
		return err
	}
	for _, step := range []func() error{b.allImages, b.binaries, b.chart, b.definitions, b.notes, b.checksums} {
		if err := step(); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(final); err != nil {
		return err
	}
	return os.Rename(b.out, final)
}

func (b *builder) write(name string, data []byte) error {
	return os.WriteFile(filepath.Join(b.out, name), data, 0o644)
}

// allImages moves the archives into the release and creates an index of each image's architectures.
func (b *builder) allImages() error {
	b.digests, b.programs = map[string]v1.Hash{}, map[string][]entry{}
	var list bytes.Buffer
	for _, image := range images {
		archs, err := architectures(b.images, image)
		if err != nil {
			return err
		}
		if b.archs == nil {
			b.archs = archs
		}
		if !slices.Equal(b.archs, archs) {
			return fmt.Errorf("%s has images for the architectures %v, other images have %v", image, archs, b.archs)
		}
		tag := "sealvol/" + image + ":" + b.version
		of := map[string]v1.Image{}
		for _, arch := range archs {
			if of[arch], err = b.takeOver(image, arch, tag); err != nil {
				return err
			}
		}
		index, err := indexOf(archs, of)
		if err != nil {
			return fmt.Errorf("%s: %w", tag, err)
		}
		if b.digests[image], err = b.store.add(tag, index); err != nil {
			return err
		}
		fmt.Fprintf(&list, "%s@%s\n", tag, b.digests[image])
	}
	if err := b.write("images.txt", list.Bytes()); err != nil {
		return err
	}
	return b.store.archive(filepath.Join(b.out, ociArchive(b.version)))
}

func ociArchive(version string) string { return "sealvol-" + version + "-images.oci.tar" }

// takeOver moves an archive into the release and loads it.
func (b *builder) takeOver(image, arch, tag string) (v1.Image, error) {
	file := filepath.Join(b.out, fmt.Sprintf("%s-%s-linux-%s.docker.tar", image, b.version, arch))
	if err := os.Rename(filepath.Join(b.images, image+"-"+arch+".tar"), file); err != nil {
		return nil, err
	}
	img, err := loadArchive(file, tag)
	if err != nil {
		return nil, err
	}
	program, bill, err := content(img)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	b.programs[arch] = append(b.programs[arch], program)
	return img, b.write(fmt.Sprintf("%s-%s-linux-%s.cdx.json", image, b.version, arch), bill)
}

// binaries packs the programs of the images, by architecture.
func (b *builder) binaries() error {
	var legal []entry // must accompany the programs wherever they are distributed
	for _, name := range []string{"LICENSE", "NOTICE", "THIRD-PARTY-LICENSES"} {
		text, err := os.ReadFile(filepath.Join(b.root, name))
		if err != nil {
			return err
		}
		legal = append(legal, entry{name: name, mode: 0o644, data: text})
	}
	for _, arch := range b.archs {
		top := fmt.Sprintf("sealvol-%s-linux-%s", b.version, arch)
		var list []entry
		programs := append(b.programs[arch], entry{name: "kubectl-sealvol", mode: 0o777, link: "sealvol"})
		for _, p := range append(programs, legal...) {
			p.name = top + "/" + p.name
			list = append(list, p)
		}
		if err := writeTarFile(filepath.Join(b.out, top+".tar.gz"), list); err != nil {
			return err
		}
	}
	return nil
}

// definitions writes the CRDs into one file.
func (b *builder) definitions() error {
	files, err := filepath.Glob(filepath.Join(b.root, "config", "crd", "sealvol.dev_*.yaml"))
	if err != nil || len(files) == 0 {
		return errors.Join(err, errors.New("no CRDs in config/crd"))
	}
	var all bytes.Buffer
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		if !bytes.HasPrefix(text, []byte("---\n")) {
			all.WriteString("---\n")
		}
		all.Write(text)
	}
	return b.write("sealvol-crds-"+b.version+".yaml", all.Bytes())
}

// checksums lists the checksums of all files in the format of sha256sum, and signs the list.
func (b *builder) checksums() error {
	files, err := tree(b.out, "")
	if err != nil {
		return err
	}
	var list strings.Builder
	for _, f := range files {
		sum, err := sumOf(f.file)
		if err != nil {
			return err
		}
		fmt.Fprintf(&list, "%x  %s\n", sum, f.name)
	}
	if err := b.write("SHA256SUMS", []byte(list.String())); err != nil || b.key == "" {
		return err
	}
	key, err := os.ReadFile(b.key)
	if err != nil {
		return err
	}
	signature, err := sign(key, []byte(list.String()))
	if err != nil {
		return fmt.Errorf("%s: %w", b.key, err)
	}
	return b.write("SHA256SUMS.sig", signature)
}

func sumOf(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return h.Sum(nil), err
}
