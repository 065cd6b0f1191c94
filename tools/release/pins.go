package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"go.yaml.in/yaml/v3"
)

// lockFile has the digests of the third-party images that the chart's values name, one line each:
// REGISTRY/PATH:TAG DIGEST. It is part of the sources, so that building a release needs no network
// and is reproducible.
const lockFile = "charts/sidecars.lock"

const lockHead = "# The digests of the chart's sidecars; make pin-sidecars writes them. A release's chart asks for these.\n"

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// pinner reads the digests of the chart's sidecars from a registry and writes the lock file.
type pinner struct {
	root, from string
	insecure   bool
}

func (p *pinner) pin(ctx context.Context, out io.Writer) error {
	refs, err := sourceSidecars(p.root)
	if err != nil {
		return err
	}
	text := lockHead
	for _, ref := range refs {
		from, err := name.ParseReference(ref)
		if err != nil {
			return err
		}
		if p.from != "" {
			if from, err = moved(from, p.from, p.insecure); err != nil {
				return err
			}
		}
		d, err := remote.Head(from, options(ctx)...)
		if err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
		if !d.MediaType.IsIndex() {
			return fmt.Errorf("%s is an image for one architecture, not an index: nodes of other architectures could not pull it by this digest", from)
		}
		text += ref + " " + d.Digest.String() + "\n"
	}
	if err := os.WriteFile(filepath.Join(p.root, lockFile), []byte(text), 0o600); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\n%s was written: commit it; make release puts it into the chart\n", strings.TrimPrefix(strings.TrimSpace(text), lockHead), lockFile)
	return err
}

// sourceSidecars returns the third-party images that the chart in the sources names.
func sourceSidecars(root string) ([]string, error) {
	file := filepath.Join(root, "charts", "sealvol", "values.yaml")
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var v chartValues
	if err := yaml.Unmarshal(b, &v); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return v.sidecars(file)
}

// readLock reads the lock file; without a file there are no digests.
func readLock(root string) (map[string]string, error) {
	b, err := os.ReadFile(filepath.Join(root, lockFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	digests := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		ref, digest, ok := strings.Cut(line, " ")
		if !ok || !digestForm.MatchString(digest) {
			return nil, fmt.Errorf("%s: malformed line %q, want REGISTRY/PATH:TAG sha256:...", lockFile, line)
		}
		digests[ref] = digest
	}
	return digests, nil
}

// pinnedSidecars returns the digests of the sidecars for the packaged chart: none without a lock
// file, and all of them with one.
func (b *builder) pinnedSidecars() (string, error) {
	digests, err := readLock(b.root)
	if err != nil {
		return "", err
	}
	if digests == nil {
		fmt.Fprintf(os.Stderr, "release: the chart names its sidecars by tag, without digests, because there is no %s (docs/release.md, \"Sidecars\")\n", lockFile)
		return "", nil
	}
	refs, err := sourceSidecars(b.root)
	if err != nil {
		return "", err
	}
	text := "sidecars:\n"
	for _, ref := range refs {
		digest := digests[ref]
		if tag, given, ok := strings.Cut(ref, "@"); ok { // the values themselves have the digest
			if digests[tag] != "" && digests[tag] != given {
				return "", fmt.Errorf("%s and the chart's values have different digests of %s", lockFile, tag)
			}
			continue
		}
		if digest == "" {
			return "", fmt.Errorf("%s has no digest of %s: run make pin-sidecars", lockFile, ref)
		}
		text += fmt.Sprintf("  %q: %s\n", path.Base(ref), digest)
	}
	if text == "sidecars:\n" {
		return "", nil
	}
	return text, nil
}
