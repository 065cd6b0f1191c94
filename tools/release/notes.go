package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	changelogFile = "CHANGELOG.md"
	fragmentsDir  = "changelog.d"
	unreleased    = "## Unreleased"
)

// fragments returns the files of changelog.d, sorted by name. Each change has a file of its own, so
// that parallel changes do not conflict.
func fragments(root string) (files []string, text string, err error) {
	all, err := filepath.Glob(filepath.Join(root, fragmentsDir, "*.md"))
	if err != nil {
		return nil, "", err
	}
	for _, f := range all {
		if filepath.Base(f) == "README.md" {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, "", err
		}
		if !strings.HasPrefix(string(b), "- ") {
			return nil, "", fmt.Errorf("%s must begin with \"- \", like the lines of %s", f, changelogFile)
		}
		files = append(files, f)
		text += strings.TrimRight(string(b), "\n") + "\n"
	}
	return files, text, nil
}

// section splits a changelog into three parts: the text before a heading's section, that section,
// and the rest.
func section(changelog, heading string) (before, text, after string, ok bool) {
	start := strings.Index("\n"+changelog, "\n"+heading)
	if start < 0 {
		return "", "", "", false
	}
	line := strings.IndexByte(changelog[start:], '\n')
	if line < 0 {
		return changelog, "", "", true
	}
	body := start + line + 1
	end := strings.Index(changelog[body:], "\n## ")
	if end < 0 {
		return changelog[:body], changelog[body:], "", true
	}
	return changelog[:body], changelog[body : body+end+1], changelog[body+end+1:], true
}

// changes returns the changes of a version from the changelog, or the unreleased changes if the
// changelog does not have the version.
func changes(root, version string) (string, error) {
	b, err := os.ReadFile(filepath.Join(root, changelogFile))
	if err != nil {
		return "", err
	}
	if _, text, _, ok := section(string(b), "## "+version+" "); ok {
		return strings.TrimSpace(text) + "\n", nil
	}
	_, text, _, ok := section(string(b), unreleased)
	if !ok {
		return "", fmt.Errorf("%s has no section %q", changelogFile, unreleased)
	}
	_, more, err := fragments(root)
	if err != nil {
		return "", err
	}
	return strings.TrimLeft(strings.TrimSpace(text)+"\n"+more, "\n"), nil
}

// notes writes the text of a release page.
func (b *builder) notes() error {
	text, err := changes(b.root, b.version)
	if err != nil {
		return err
	}
	list, err := os.ReadFile(filepath.Join(b.out, "images.txt"))
	if err != nil {
		return err
	}
	return b.write("NOTES.md", fmt.Appendf(nil, "# Sealvol %s\n\n%s\n## Images\n\n```\n%s```\n\nThe chart `%s` pins these digests. How to install: docs/install.md.\n",
		b.version, text, list, chartArchive(b.version)))
}

// foldChangelog turns the unreleased changes into the section of a version, and removes the
// fragments.
func foldChangelog(root, version string, now time.Time) error {
	if err := checkVersion(version); err != nil {
		return err
	}
	name := filepath.Join(root, changelogFile)
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if _, _, _, ok := section(string(b), "## "+version+" "); ok {
		return fmt.Errorf("%s already has a section for %s", changelogFile, version)
	}
	before, text, after, ok := section(string(b), unreleased)
	if !ok {
		return fmt.Errorf("%s has no section %q", changelogFile, unreleased)
	}
	files, more, err := fragments(root)
	if err != nil {
		return err
	}
	body := strings.TrimLeft(strings.TrimSpace(text)+"\n"+more, "\n")
	if strings.TrimSpace(body) == "" {
		return errors.New("nothing has changed: neither the changelog nor changelog.d has unreleased changes")
	}
	if after != "" {
		after = "\n" + after
	}
	folded := fmt.Sprintf("%s\n## %s %s\n\n%s%s", before, version, now.Format("2006-01-02"), body, after)
	if err := os.WriteFile(name, []byte(folded), 0o644); err != nil {
		return err
	}
	for _, f := range files {
		err = errors.Join(err, os.Remove(f))
	}
	return err
}
