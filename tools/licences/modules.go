package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// shipped are the commands that users get as programs, images or libraries.
var shipped = []string{"./cmd/driver", "./cmd/libdoublecrypt", "./cmd/libselfenc", "./cmd/operator", "./cmd/sealvol"}

// architectures are those of releases. Some files, and so some modules, belong to only one of them.
var architectures = []string{"amd64", "arm64"}

// module is a module from which at least one package is linked.
type module struct {
	path, dir string
	licences  []document
	notices   []document
}

// document is a licence or notice: its module and file name, and its text.
type document struct{ name, text string }

// linked returns the modules of all shipped commands with their licences, sorted. A package may
// have a licence of its own, so every directory from a linked package up to the root of its module
// is read.
func linked(root string) ([]*module, error) {
	own, err := goCommand(root, "", "list", "-m")
	if err != nil {
		return nil, err
	}
	modules := map[string]*module{}
	folders := map[string]map[string]bool{} // by module
	for _, arch := range architectures {
		args := append([]string{"list", "-deps", "-f", "{{with .Module}}{{.Path}}\t{{.Dir}}{{end}}\t{{.Dir}}"}, shipped...)
		out, err := goCommand(root, arch, args...)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(out) {
			f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
			if len(f) != 3 || f[0] == strings.TrimSpace(own) { // a package of the standard library or of this repository
				continue
			}
			if modules[f[0]] == nil {
				modules[f[0]], folders[f[0]] = &module{path: f[0], dir: f[1]}, map[string]bool{}
			}
			for dir := f[2]; strings.HasPrefix(dir, f[1]); dir = filepath.Dir(dir) {
				folders[f[0]][dir] = true
			}
		}
	}
	goroot, err := goCommand(root, "", "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	std := &module{path: "Go standard library", dir: strings.TrimSpace(goroot)}
	modules[std.path], folders[std.path] = std, map[string]bool{std.dir: true}
	for path, m := range modules {
		for _, dir := range slices.Sorted(maps.Keys(folders[path])) {
			if err := m.read(dir); err != nil {
				return nil, err
			}
		}
	}
	var sorted []*module
	for _, path := range slices.Sorted(maps.Keys(modules)) {
		sorted = append(sorted, modules[path])
	}
	return sorted, nil
}

// goCommand runs go in the repository with the settings of the shipped programs: with cgo, which
// only the libraries need.
func goCommand(root, arch string, args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=1", "GOFLAGS=-mod=readonly")
	if arch != "" {
		cmd.Env = append(cmd.Env, "GOARCH="+arch)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, errs.String())
	}
	return string(out), nil
}

var (
	licenceName = regexp.MustCompile(`(?i)^(un)?(licen[cs]e|copying)([-._].*)?$`)
	noticeName  = regexp.MustCompile(`(?i)^notice(\..*)?$`)
)

// read adds the licences and notices in a directory.
func (m *module) read(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		licence := licenceName.MatchString(e.Name()) && filepath.Ext(e.Name()) != ".go"
		if !e.Type().IsRegular() || !licence && !noticeName.MatchString(e.Name()) {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(m.dir, filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		d := document{name: m.path + ": " + filepath.ToSlash(rel), text: string(b)}
		if licence {
			m.licences = append(m.licences, d)
		} else {
			m.notices = append(m.notices, d)
		}
	}
	return nil
}

// ids returns the SPDX names of the module's licences.
func (m *module) ids() []string {
	found := map[string]bool{}
	for _, d := range m.licences {
		for _, id := range identify(d.text) {
			found[id] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// judge returns an error for a module that must not be shipped.
func (m *module) judge() error {
	if len(m.licences) == 0 {
		return fmt.Errorf("%s has no licence file, so it must not be shipped: use another module", m.path)
	}
	var all error
	for _, d := range m.licences {
		ids := identify(d.text)
		if len(ids) == 0 {
			all = errors.Join(all, fmt.Errorf("%s: unknown licence: read it and, if the module may be shipped, add the licence to tools/licences/identify.go", d.name))
		}
		for _, id := range ids {
			if !slices.Contains(allowed, id) {
				all = errors.Join(all, fmt.Errorf("%s: %s is not among the allowed licences: use another module", d.name, id))
			}
		}
	}
	return all
}
