package main

import (
	"archive/tar"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net/http/httptest"
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

const root = "../.."

// fakeImage has the structure of the images of tools/images, but small programs.
func fakeImage(t *testing.T, image, arch, version string) v1.Image {
	t.Helper()
	program := map[string]string{"driver": "driver", "operator": "operator", "cli": "sealvol"}[image]
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, f := range []struct{ at, text string }{
		{program, "the " + program + " for " + arch + " of " + version},
		{"usr/share/sbom/" + program + ".cdx.json", `{"bomFormat": "CycloneDX"}`},
	} {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.at, Mode: 0o755, Size: int64(len(f.text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(f.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", arch
	cf.Config.Labels = map[string]string{"org.opencontainers.image.version": version}
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	return img
}

func fakeImages(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	for _, image := range images {
		for _, arch := range []string{"amd64", "arm64"} {
			tag, err := name.NewTag("sealvol/" + image + ":" + version)
			if err != nil {
				t.Fatal(err)
			}
			if err := tarball.WriteToFile(filepath.Join(dir, image+"-"+arch+".tar"), tag, fakeImage(t, image, arch, version)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// release builds a release from fake images and the project's own files.
func release(t *testing.T, version, key string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "dist", version)
	b := builder{version: version, images: fakeImages(t, version), out: out, key: key, root: root}
	if err := b.build(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Dir(out))
	if err != nil || len(left) != 1 {
		t.Fatalf("left %v, %v", left, err)
	}
	return out
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// server starts a registry on loopback.
func server(t *testing.T) string {
	t.Helper()
	h, err := handler(filepath.Join(t.TempDir(), "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func push(t *testing.T, dist, to string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	p := pusher{dist: dist, registry: to}
	err := p.push(t.Context(), &out)
	return out.String(), err
}

// The files of a release have checksums, which a key signs.
func TestBuild(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	dist := release(t, "v1.2.3", key)
	sums := read(t, dist, "SHA256SUMS")
	seen := 0
	for line := range strings.Lines(sums) {
		sum, file, _ := strings.Cut(strings.TrimSpace(line), "  ")
		if got := fmt.Sprintf("%x", sha256.Sum256([]byte(read(t, dist, file)))); got != sum {
			t.Errorf("%s: %s, not %s", file, got, sum)
		}
		seen++
	}
	files, err := os.ReadDir(dist)
	if err != nil || len(files) != seen+2 {
		t.Errorf("%d files, %d checksums: %v", len(files), seen, err)
	}
	signature, err := base64.StdEncoding.DecodeString(read(t, dist, "SHA256SUMS.sig"))
	digest := sha256.Sum256([]byte(sums))
	if err != nil || !ecdsa.VerifyASN1(&private.PublicKey, digest[:], signature) {
		t.Error("the signature is not good: ", err)
	}
	if notes := read(t, dist, "NOTES.md"); !strings.Contains(notes, read(t, dist, "images.txt")) || !strings.Contains(notes, "\n- ") {
		t.Error(notes)
	}
	if crds := read(t, dist, "sealvol-crds-v1.2.3.yaml"); strings.Count(crds, "kind: CustomResourceDefinition") != 2 || strings.Count(crds, "---\n") != 2 {
		t.Error("CRDs are missing")
	}
	again := release(t, "v1.2.3", key)
	if a, b := sums+read(t, dist, "SHA256SUMS.sig"), read(t, again, "SHA256SUMS")+read(t, again, "SHA256SUMS.sig"); a != b {
		t.Errorf("two releases differ:\n%s%s", a, b)
	}
}

// The contents of the images are taken over unchanged.
func TestArchives(t *testing.T) {
	dist := release(t, "v1.2.3-rc.1", "")
	c, err := openChart(dist)
	if err != nil || c.version != "v1.2.3-rc.1" || filepath.Base(c.file) != "sealvol-1.2.3-rc.1.tgz" {
		t.Fatalf("%+v, %v", c, err)
	}
	dir := t.TempDir()
	list, err := openArchive(filepath.Join(dist, ociArchive(c.version)), dir)
	if err != nil || len(list) != len(images) {
		t.Fatal(list, err)
	}
	for i, l := range list {
		if want := "docker.io/sealvol/" + images[i] + ":v1.2.3-rc.1"; l.ref.String() != want {
			t.Errorf("%s, not %s", l.ref, want)
		}
		// containerd uses both names; the kubelet asks for the second if the chart pins digests
		for _, n := range []string{l.ref.String(), l.ref.Context().String() + "@" + l.digest.String()} {
			if n = strings.TrimPrefix(n, "index."); !strings.Contains(read(t, dir, "index.json"), fmt.Sprintf("%q: %q", annotationName, n)) {
				t.Errorf("no name %s", n)
			}
		}
		m, err := l.index.IndexManifest()
		if err != nil || len(m.Manifests) != 2 || m.Annotations["org.opencontainers.image.version"] != c.version {
			t.Fatalf("%+v, %v", m, err)
		}
		for _, d := range m.Manifests {
			img, err := l.index.Image(d.Digest)
			if err != nil {
				t.Fatal(err)
			}
			archive, err := loadArchive(filepath.Join(dist, fmt.Sprintf("%s-%s-linux-%s.docker.tar", images[i], c.version, d.Platform.Architecture)), l.ref.String())
			if err != nil {
				t.Fatal(err)
			}
			a, err1 := archive.ConfigName()
			b, err2 := img.ConfigName()
			if err1 != nil || err2 != nil || a != b {
				t.Errorf("%s: the archive of docker has another config: %v %v %v %v", l.ref, a, b, err1, err2)
			}
		}
	}
}

func TestPush(t *testing.T) {
	dist, host := release(t, "v1.2.3", ""), server(t)
	out, err := push(t, dist, host+"/team/")
	if err != nil || !strings.Contains(out, "--set images.registry="+host+"/team\n") {
		t.Fatal(out, err)
	}
	for line := range strings.Lines(read(t, dist, "images.txt")) {
		path, digest, _ := strings.Cut(strings.TrimSpace(line), "@")
		repository, _, _ := strings.Cut(path, ":")
		ref, err := name.NewDigest(host + "/team/" + repository + "@" + digest)
		if err != nil {
			t.Fatal(err)
		}
		for _, arch := range []string{"amd64", "arm64"} {
			img, err := remote.Image(ref, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: arch}))
			if err != nil {
				t.Fatal(err)
			}
			if p, _, err := content(img); err != nil || !strings.HasSuffix(string(p.data), " for "+arch+" of v1.2.3") {
				t.Errorf("%s, %v", p.data, err)
			}
		}
	}
	if out, err := push(t, dist, host+"/team"); err != nil {
		t.Error(out, err)
	}
	// An existing version is not replaced by another one with the same name.
	img, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(host + "/team/sealvol/operator:v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img); err != nil {
		t.Fatal(err)
	}
	if _, err := push(t, dist, host+"/team"); err == nil || !strings.Contains(err.Error(), "other content") {
		t.Error(err)
	}
	p := pusher{dist: dist, registry: host + "/team", force: true}
	if err := p.push(t.Context(), io.Discard); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "https://" + host, "Host/UPPER", "oci://x", "a b"} {
		if _, err := push(t, dist, bad); err == nil || !strings.Contains(err.Error(), "HOST[:PORT]") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := push(t, t.TempDir(), host); err == nil || !strings.Contains(err.Error(), "make release") {
		t.Error(err)
	}
}

func TestRefused(t *testing.T) {
	for _, version := range []string{"", "1.2.3", "v1.2", "v1.2.3+build", "dev", "v01.2.3", "v1.2.3-", "latest"} {
		b := builder{version: version, images: t.TempDir(), out: filepath.Join(t.TempDir(), "x"), root: root}
		if err := b.build(); err == nil || !strings.Contains(err.Error(), "vX.Y.Z") {
			t.Errorf("%q: %v", version, err)
		}
	}
	out := filepath.Join(t.TempDir(), "dist", "v1.0.0")
	for what, dir := range map[string]string{"other version": fakeImages(t, "v2.0.0"), "nothing": t.TempDir()} {
		b := builder{version: "v1.0.0", images: dir, out: out, root: root}
		if err := b.build(); err == nil {
			t.Errorf("%s: accepted", what)
		}
		if left, err := os.ReadDir(filepath.Dir(out)); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", what, left, err)
		}
	}
	other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(other)
	if err != nil {
		t.Fatal(err)
	}
	for want, key := range map[string][]byte{
		"no PEM":    []byte("x"),
		"encrypted": pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED SIGSTORE PRIVATE KEY", Bytes: []byte("x")}),
		"P-256":     pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	} {
		if _, err := sign(key, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if err := unpack(evil(t), t.TempDir()); err == nil || !strings.Contains(err.Error(), "leads out") {
		t.Error(err)
	}
}

func evil(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "evil.tar")
	if err := writeTarFile(name, []entry{{name: "../x", mode: 0o644, data: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	return name
}
