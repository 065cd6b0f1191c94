//go:build dist

package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

var (
	distFlag = flag.String("dist", "", "a release that tools/dist has made, without sidecars")
	helmFlag = flag.String("helm", "helm", "helm")
)

// TestDist pushes a real release to a registry on loopback, with fake third-party images, and
// checks that the packaged chart installs from there what the release contains.
func TestDist(t *testing.T) {
	dist := *distFlag
	c, err := openChart(dist)
	if err != nil {
		t.Fatal(err)
	}
	sums := exec.Command("sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS")
	sums.Dir = dist
	if out, err := sums.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	refs, err := c.sidecars()
	if err != nil {
		t.Fatal(err)
	}
	s := saver{dist: dist, from: upstream(t, refs)}
	if err := s.save(t.Context()); err != nil {
		t.Fatal(err)
	}
	host := server(t) + "/team"
	if out, err := push(t, dist, host); err != nil {
		t.Fatal(out, err)
	}
	installed := map[string]bool{}
	for _, values := range []string{"backend=local", "backend=ebs,ebs.clusterID=x"} {
		for _, ref := range rendered(t, c, "registry="+host+",snapshots.enabled=true,"+values) {
			installed[ref] = true
		}
	}
	if len(installed) != len(refs)+2 {
		t.Errorf("%d images: %v", len(installed), slices.Sorted(maps.Keys(installed)))
	}
	for ref := range installed {
		pull(t, dist, c.version, host, ref)
	}
	for _, image := range images {
		checkBill(t, dist, image, c.version)
	}
}

// rendered returns the images of the packaged chart.
func rendered(t *testing.T, c packaged, values string) (refs []string) {
	t.Helper()
	if out, err := exec.Command(*helmFlag, "lint", "--strict", c.file, "--set", values).CombinedOutput(); err != nil {
		t.Errorf("helm lint: %v: %s", err, out)
	}
	out, err := exec.Command(*helmFlag, "template", "sealvol", c.file, "--kube-version", "1.36.0", "--set", values).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^ *image: "(.*)"$`).FindAllSubmatch(out, -1) {
		refs = append(refs, string(m[1]))
	}
	if n := bytes.Count(out, []byte(" image:")); n != len(refs) || n == 0 {
		t.Errorf("%d of %d images", len(refs), n)
	}
	if !bytes.Contains(out, fmt.Appendf(nil, "app.kubernetes.io/version: %q", c.version)) {
		t.Errorf("the objects are not labelled with %s", c.version)
	}
	return refs
}

// pull gets an image like a node would. For Sealvol's own images, the program must be that of the
// archive of binaries.
func pull(t *testing.T, dist, version, host, ref string) {
	t.Helper()
	repository, digest, pinned := strings.Cut(strings.TrimPrefix(ref, host+"/"), "@")
	repository, tag, _ := strings.Cut(repository, ":")
	ours := path.Dir(repository) == "sealvol"
	if ours && (!pinned || tag != version) {
		t.Errorf("%s is not pinned, or not of %s", ref, version)
	}
	at := host + "/" + repository
	if pinned {
		at += "@" + digest
	} else {
		at += ":" + tag
	}
	parsed, err := name.ParseReference(at)
	if err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		img, err := remote.Image(parsed, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: arch}))
		if err != nil {
			t.Fatalf("%s: %v", ref, err)
		}
		if !ours {
			continue
		}
		program, _, err := content(img)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(program.data, binary(t, dist, version, arch, program.name)) {
			t.Errorf("%s for %s is not the program beside it", ref, arch)
		}
	}
}

// binary returns a program of the archive for an architecture. If it can run here, it must print
// its version.
func binary(t *testing.T, dist, version, arch, program string) (data []byte) {
	t.Helper()
	f, err := os.Open(filepath.Join(dist, "sealvol-"+version+"-linux-"+arch+".tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	err = readTar(z, func(name string, mode int64, r io.Reader) (err error) {
		if path.Base(name) == program && mode == 0o755 {
			data, err = io.ReadAll(r)
		}
		return err
	})
	if err != nil || data == nil {
		t.Fatalf("%s: no %s: %v", f.Name(), program, err)
	}
	if arch == runtime.GOARCH {
		exe := filepath.Join(t.TempDir(), program)
		if err := os.WriteFile(exe, data, 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), exe, "--version").CombinedOutput(); err != nil || !strings.Contains(string(out), version) {
			t.Errorf("%s --version: %s %v", program, out, err)
		}
	}
	return data
}

// checkBill: the list of modules belongs to a program of this version and names its modules.
func checkBill(t *testing.T, dist, image, version string) {
	t.Helper()
	for _, arch := range []string{"amd64", "arm64"} {
		var bill struct {
			Format   string `json:"bomFormat"`
			Metadata struct {
				Component struct {
					Version string `json:"version"`
					PURL    string `json:"purl"`
				} `json:"component"`
			} `json:"metadata"`
			Components []struct {
				PURL string `json:"purl"`
			} `json:"components"`
		}
		if err := json.Unmarshal([]byte(read(t, dist, image+"-"+version+"-linux-"+arch+".cdx.json")), &bill); err != nil {
			t.Fatal(err)
		}
		m := bill.Metadata.Component
		if bill.Format != "CycloneDX" || m.Version != version || !strings.HasPrefix(m.PURL, "pkg:golang/github.com/sealvol/sealvol@"+version+"#cmd/") || len(bill.Components) < 10 {
			t.Errorf("%s for %s: %+v, %d components", image, arch, m, len(bill.Components))
		}
		for _, x := range bill.Components {
			if !strings.HasPrefix(x.PURL, "pkg:golang/") {
				t.Errorf("%s: component %q", image, x.PURL)
			}
		}
	}
}
