package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// upstream is a registry with the chart's third-party images, with one more architecture than
// Sealvol's.
func upstream(t *testing.T, refs []string) string {
	t.Helper()
	host := server(t)
	for _, r := range refs {
		index := v1.ImageIndex(empty.Index)
		for _, arch := range []string{"amd64", "arm64", "s390x"} {
			img, err := random.Image(100, 1)
			if err != nil {
				t.Fatal(err)
			}
			index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
		}
		tag, err := name.NewTag(strings.Replace(r, "registry.k8s.io", host, 1))
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.WriteIndex(tag, index); err != nil {
			t.Fatal(err)
		}
	}
	return host
}

// Third-party images are pushed with Sealvol's images, from another registry or from files.
func TestSidecars(t *testing.T) {
	dist, host := release(t, "v1.2.3", ""), server(t)
	c, err := openChart(dist)
	if err != nil {
		t.Fatal(err)
	}
	refs, err := c.sidecars()
	if err != nil || len(refs) != 5 {
		t.Fatal(refs, err)
	}
	s := saver{dist: dist, from: upstream(t, refs)}
	if err := s.save(t.Context()); err != nil {
		t.Fatal(err)
	}
	out, err := push(t, dist, host)
	if err != nil || !strings.Contains(out, "--set registry="+host+"\n") {
		t.Fatal(out, err)
	}
	for _, r := range refs {
		tag, err := name.NewTag(strings.Replace(r, "registry.k8s.io", host, 1))
		if err != nil {
			t.Fatal(err)
		}
		index, err := remote.Index(tag)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := index.IndexManifest(); err != nil || len(m.Manifests) != 2 {
			t.Errorf("%s: %+v, %v", r, m, err)
		}
	}
	files := t.TempDir()
	for i, r := range refs {
		img, err := random.Image(100, 1)
		if err != nil {
			t.Fatal(err)
		}
		tag, err := name.NewTag(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := tarball.WriteToFile(filepath.Join(files, fmt.Sprint(i)+".tar"), tag, img); err != nil {
			t.Fatal(err)
		}
	}
	s.from = files
	if err := s.save(t.Context()); err != nil {
		t.Fatal(err)
	}
	host = server(t)
	if out, err := push(t, dist, host); err != nil || strings.Count(out, "@sha256:") != len(images)+len(refs) {
		t.Error(out, err)
	}
	if err := os.Remove(filepath.Join(files, "0.tar")); err != nil {
		t.Fatal(err)
	}
	if err := s.save(t.Context()); err == nil || !strings.Contains(err.Error(), "no archive") {
		t.Error(err)
	}
}

// An image that is pinned by digest is fetched completely, and has that digest.
func TestPinned(t *testing.T) {
	host := upstream(t, []string{"registry.k8s.io/sig-storage/csi-resizer:v1"})
	tag, err := name.NewTag(host + "/sig-storage/csi-resizer:v1")
	if err != nil {
		t.Fatal(err)
	}
	d, err := remote.Head(tag)
	if err != nil {
		t.Fatal(err)
	}
	s := saver{from: host}
	got, err := s.pull(t.Context(), "registry.k8s.io/sig-storage/csi-resizer:v1@"+d.Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	st, err := newStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if digest, err := st.add("a/b:c", got); err != nil || digest != d.Digest {
		t.Errorf("%v, not %v: %v", digest, d.Digest, err)
	}
}

// copySources copies the sources of a release, so that the chart can be changed.
func copySources(t *testing.T) string {
	t.Helper()
	sources := t.TempDir()
	if err := os.CopyFS(filepath.Join(sources, "charts"), os.DirFS(filepath.Join(root, "charts"))); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == "charts" {
			continue
		}
		path, err := filepath.Abs(filepath.Join(root, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(sources, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return sources
}

// The packaged chart has the digests of the lock file, and the images that are fetched for it have
// these digests. A chart whose values have changed since is not packed with the old digests.
func TestPinSidecars(t *testing.T) {
	sources := copySources(t)
	refs, err := sourceSidecars(sources)
	if err != nil {
		t.Fatal(err)
	}
	build := func() (string, error) {
		out := filepath.Join(t.TempDir(), "dist", "v1.2.3")
		b := builder{version: "v1.2.3", images: fakeImages(t, "v1.2.3"), out: out, root: sources}
		return out, b.build()
	}
	lock := filepath.Join(sources, lockFile)
	if err := os.Remove(lock); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	host := upstream(t, refs)
	p := pinner{root: sources, from: host}
	var out bytes.Buffer
	if err := p.pin(t.Context(), &out); err != nil || !strings.Contains(out.String(), refs[0]+" sha256:") {
		t.Fatal(out.String(), err)
	}
	dist, err := build()
	if err != nil {
		t.Fatal(err)
	}
	c, err := openChart(dist)
	if err != nil {
		t.Fatal(err)
	}
	pinned, err := c.sidecars()
	if err != nil || len(pinned) != len(refs) {
		t.Fatal(pinned, err)
	}
	locked := read(t, lock)
	for i, ref := range pinned {
		tag, digest, _ := strings.Cut(ref, "@")
		if tag != refs[i] || !strings.Contains(locked, tag+" "+digest+"\n") {
			t.Errorf("%s is not pinned as %s says", ref, locked)
		}
	}
	if err := (&saver{dist: dist, from: host}).save(t.Context()); err != nil {
		t.Fatal(err)
	}
	to := server(t)
	if _, err := push(t, dist, to); err != nil {
		t.Fatal(err)
	}
	for _, ref := range pinned {
		d, err := name.NewDigest(strings.Replace(ref, "registry.k8s.io", to, 1))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := remote.Head(d); err != nil {
			t.Errorf("the registry does not have what the chart asks for: %v", err)
		}
	}
	values := filepath.Join(sources, "charts", "sealvol", "values.yaml")
	tag := refs[0][strings.LastIndexByte(refs[0], ':')+1:]
	if err := os.WriteFile(values, []byte(strings.Replace(read(t, values), tag, "v99.0.0", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := build(); err == nil || !strings.Contains(err.Error(), "make pin-sidecars") {
		t.Error(err)
	}
}
