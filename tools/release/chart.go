package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// digestsFile lists the digests of the appVersion's images in a packaged chart. It is not part of
// the values, because helm upgrade --reuse-values would use the old digests with the new version.
const digestsFile = "files/digests.yaml"

var chartLines = map[string]*regexp.Regexp{
	"version":    regexp.MustCompile(`(?m)^version: .*$`),
	"appVersion": regexp.MustCompile(`(?m)^appVersion: .*$`),
}

func chartArchive(version string) string {
	return "sealvol-" + strings.TrimPrefix(version, "v") + ".tgz"
}

// chart packs the chart with the version of the release and the digests of its images.
func (b *builder) chart() error {
	dir := filepath.Join(b.root, "charts", "sealvol")
	files, err := tree(dir, "sealvol/")
	if err != nil {
		return err
	}
	about, err := os.ReadFile(filepath.Join(dir, "Chart.yaml"))
	if err != nil {
		return err
	}
	for field, value := range map[string]string{"version": strings.TrimPrefix(b.version, "v"), "appVersion": b.version} {
		if n := len(chartLines[field].FindAll(about, -1)); n != 1 {
			return fmt.Errorf("%d lines %s: in Chart.yaml, want one", n, field)
		}
		about = chartLines[field].ReplaceAllLiteral(about, fmt.Appendf(nil, "%s: %q", field, value))
	}
	list := []entry{{name: "sealvol/Chart.yaml", mode: 0o644, data: about}} // first, like helm package
	for _, f := range files {
		switch f.name {
		case "sealvol/Chart.yaml":
		case "sealvol/" + digestsFile:
			return fmt.Errorf("charts/%s must not be in the sources: only a packaged chart has it", f.name)
		default:
			list = append(list, f)
		}
	}
	var digests bytes.Buffer
	fmt.Fprintf(&digests, "# The images of %s.\n", b.version)
	for _, image := range images {
		fmt.Fprintf(&digests, "%s: %s\n", image, b.digests[image])
	}
	pins, err := b.pinnedSidecars()
	if err != nil {
		return err
	}
	digests.WriteString(pins)
	list = append(list, entry{name: "sealvol/" + digestsFile, mode: 0o644, data: digests.Bytes()})
	return writeTarFile(filepath.Join(b.out, chartArchive(b.version)), list)
}

// packaged is the metadata of a packaged chart.
type packaged struct {
	file    string
	version string // appVersion
	values  chartValues
	digests struct {
		Sidecars map[string]string `yaml:"sidecars"` // by name:tag
	}
}

// chartValues is the part of a chart's values that this program needs.
type chartValues struct {
	Sidecars map[string]any `yaml:"sidecars"`
}

// openChart reads the chart of a release.
func openChart(dist string) (c packaged, err error) {
	files, err := filepath.Glob(filepath.Join(dist, "sealvol-[0-9]*.tgz"))
	if err != nil {
		return c, err
	}
	if len(files) != 1 {
		return c, fmt.Errorf("%s has %d charts sealvol-*.tgz, want 1: give the directory of a release, which make release VERSION=vX.Y.Z creates", dist, len(files))
	}
	c.file = files[0]
	f, err := os.Open(c.file)
	if err != nil {
		return c, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return c, fmt.Errorf("%s: %w", c.file, err)
	}
	var about struct {
		AppVersion string `yaml:"appVersion"`
	}
	err = readTar(z, func(name string, _ int64, r io.Reader) error {
		switch name {
		case "sealvol/Chart.yaml":
			return yaml.NewDecoder(r).Decode(&about)
		case "sealvol/values.yaml":
			return yaml.NewDecoder(r).Decode(&c.values)
		case "sealvol/" + digestsFile:
			return yaml.NewDecoder(r).Decode(&c.digests)
		}
		return nil
	})
	c.version = about.AppVersion
	if err == nil && c.version == "" {
		err = fmt.Errorf("no appVersion")
	}
	if err != nil {
		return c, fmt.Errorf("%s: %w", c.file, err)
	}
	return c, nil
}

// sidecarImages are the third-party images that the chart installs. The keys are those of its
// values; templates/_helpers.tpl has the same table.
var sidecarImages = map[string]string{
	"attacher":    "csi-attacher",
	"provisioner": "csi-provisioner",
	"registrar":   "csi-node-driver-registrar",
	"resizer":     "csi-resizer",
	"snapshotter": "csi-snapshotter",
}

// sidecars returns the third-party images as the chart's own values name them, with digests if the
// chart has them.
func (c packaged) sidecars() (refs []string, err error) {
	all, err := c.values.sidecars(c.file)
	if err != nil {
		return nil, err
	}
	for _, ref := range all {
		if digest := c.digests.Sidecars[path.Base(ref)]; digest != "" {
			ref += "@" + digest
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

// sidecars returns the third-party images as the values in a file name them.
func (v chartValues) sidecars(file string) (refs []string, err error) {
	registry, _ := v.Sidecars["registry"].(string)
	for key, image := range sidecarImages {
		tag, _ := v.Sidecars[key].(string)
		if registry == "" || tag == "" {
			return nil, fmt.Errorf("%s has no sidecars.registry or no sidecars.%s", file, key)
		}
		refs = append(refs, registry+"/"+image+":"+tag)
	}
	slices.Sort(refs)
	return refs, nil
}
