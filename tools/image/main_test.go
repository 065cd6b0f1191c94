package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// tree creates the same files with different times and permissions.
func tree(t *testing.T, when time.Time, perm os.FileMode) string {
	t.Helper()
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"bin/prog": 0o700 | perm, "etc/conf": 0o600 | perm} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700|perm); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(name), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p, when, when); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func build(t *testing.T, dir string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "image.tar")
	err := write(options{out: out, tag: "sealvol/test:dev", arch: "arm64", user: "65532", entrypoint: "/bin/prog", labels: list{"b=2", "a=1"},
		src: list{dir + "/bin/prog=/bin/", dir + "/etc=/etc", "=/tmp", "@prog=/bin/other"}})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSameBytes(t *testing.T) {
	a, err1 := os.ReadFile(build(t, tree(t, time.Unix(1, 0), 0)))
	b, err2 := os.ReadFile(build(t, tree(t, time.Unix(1e9, 0), 0o044)))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("two images of the same files differ")
	}
}

func TestContent(t *testing.T) {
	img, err := tarball.ImageFromPath(build(t, tree(t, time.Unix(1, 0), 0)), nil)
	if err != nil {
		t.Fatal(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if cf.Architecture != "arm64" || cf.OS != "linux" || cf.Config.User != "65532" || cf.Config.Labels["a"] != "1" {
		t.Errorf("config: %+v", cf)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatal(layers, err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	want := map[string]int64{"bin/": 0o755, "bin/prog": 0o755, "etc/": 0o755, "etc/conf": 0o644, "tmp/": 0o1777, "bin/other": 0o777}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if mode, ok := want[h.Name]; !ok || h.Mode != mode || h.Uid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s: mode %o, uid %d, time %v", h.Name, h.Mode, h.Uid, h.ModTime)
		}
		delete(want, h.Name)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}

func TestBillOfMaterials(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := billOfMaterials(exe, "v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	var got bom
	if err := json.Unmarshal(b, &got); err != nil || got.Format != "CycloneDX" || got.Metadata.Component.Version == "(devel)" || !strings.Contains(string(b), "pkg:golang/std@go1.") ||
		!strings.Contains(string(b), "pkg:golang/github.com/google/go-containerregistry@v") {
		t.Errorf("%v\n%s", err, b)
	}
	if b, err := billOfMaterials(filepath.Join("main.go"), ""); b != nil || err != nil {
		t.Errorf("of a text: %s, %v", b, err)
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	for name, o := range map[string]options{
		"tag":    {tag: "not a tag", src: list{"=/tmp"}},
		"source": {tag: "a:b", src: list{"nothing"}},
		"file":   {tag: "a:b", src: list{dir + "/missing=/x"}},
		"device": {tag: "a:b", src: list{"/dev/null=/x"}},
		"label":  {tag: "a:b", src: list{"=/tmp"}, labels: list{"x"}},
	} {
		o.out = filepath.Join(dir, "out.tar")
		if err := write(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}
