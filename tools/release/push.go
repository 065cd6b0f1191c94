package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// pusher pushes the images of a release to a registry.
type pusher struct {
	dist, registry  string
	insecure, force bool
}

var registries = regexp.MustCompile(`^[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$|^\[[0-9A-Fa-f:]+\](:[0-9]+)?(/[a-z0-9._-]+)*$`)

// options returns the options for all requests to registries, with the credentials of docker login.
func options(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithUserAgent("sealvol-release")}
}

func nameOptions(insecure bool) []name.Option {
	if insecure {
		return []name.Option{name.Insecure}
	}
	return nil
}

// push pushes each image under its path and tag, and checks that it arrived. It also pushes
// sidecars that `release sidecars` has saved.
func (p *pusher) push(ctx context.Context, out io.Writer) error {
	p.registry = strings.TrimSuffix(p.registry, "/")
	if !registries.MatchString(p.registry) {
		return fmt.Errorf("registry %q must have the form HOST[:PORT][/PATH] without a scheme, such as registry.example:5000/team", p.registry)
	}
	c, err := openChart(p.dist)
	if err != nil {
		return err
	}
	if err := p.archive(ctx, filepath.Join(p.dist, ociArchive(c.version)), p.force, out); err != nil {
		return err
	}
	option := "images.registry"
	sidecars := filepath.Join(p.dist, sidecarsFile)
	if _, err := os.Stat(sidecars); err == nil {
		option = "registry"
		err = p.archive(ctx, sidecars, p.force, out)
		if err != nil {
			return err
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	_, err = fmt.Fprintf(out, "\nTo install (docs/install.md):\n\n  helm install sealvol %s --namespace sealvol-system --create-namespace --set %s=%s\n", c.file, option, p.registry)
	return err
}

func (p *pusher) archive(ctx context.Context, file string, force bool, out io.Writer) (err error) {
	dir, err := os.MkdirTemp(p.dist, ".push-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	list, err := openArchive(file, dir)
	if err != nil {
		return err
	}
	for _, t := range list {
		ref, err := name.NewTag(p.registry+"/"+t.ref.RepositoryStr()+":"+t.ref.TagStr(), nameOptions(p.insecure)...)
		if err != nil {
			return err
		}
		if err := pushOne(ctx, t, ref, force); err != nil {
			return fmt.Errorf("%s: %w", ref, err)
		}
		if _, err := fmt.Fprintf(out, "%s@%s\n", ref, t.digest); err != nil {
			return err
		}
	}
	return nil
}

// pushOne refuses to replace a tag that exists with other content, because users may rely on it.
func pushOne(ctx context.Context, t tagged, ref name.Tag, force bool) error {
	// Registries differ in how they report a missing repository, so any error means that there is
	// no tag.
	there, err := remote.Head(ref, options(ctx)...)
	if err == nil && there.Digest == t.digest {
		return nil
	}
	if err == nil && !force {
		return fmt.Errorf("the registry already has other content under this tag (%s, not %s); use -force (FORCE=1) to replace it", there.Digest, t.digest)
	}
	if t.index != nil {
		err = remote.WriteIndex(ref, t.index, options(ctx)...)
	} else {
		err = remote.Write(ref, t.image, options(ctx)...)
	}
	if err != nil {
		return err
	}
	there, err = remote.Head(ref, options(ctx)...)
	if err != nil {
		return fmt.Errorf("pushed, but the registry does not have it: %w", err)
	}
	if there.Digest != t.digest {
		return fmt.Errorf("pushed %s, but the registry has %s under the tag", t.digest, there.Digest)
	}
	return nil
}
