package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func changelogOf(t *testing.T, text string, fragments map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, fragmentsDir), 0o755); err != nil {
		t.Fatal(err)
	}
	fragments[changelogFile] = text
	for f, text := range fragments {
		if f != changelogFile {
			f = filepath.Join(fragmentsDir, f)
		}
		if err := os.WriteFile(filepath.Join(dir, f), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Unreleased changes become the section of a version, and are that version's notes, before and
// after.
func TestChangelog(t *testing.T) {
	now := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	dir := changelogOf(t, "# Changelog\n\n## Unreleased\n\n- old\n  style\n", map[string]string{"b.md": "- second\n", "a.md": "- first\n  of two lines", "README.md": "# How\n"})
	want := "- old\n  style\n- first\n  of two lines\n- second\n"
	if got, err := changes(dir, "v0.1.0"); err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	if err := foldChangelog(dir, "v0.1.0", now); err != nil {
		t.Fatal(err)
	}
	if got, err := changes(dir, "v0.1.0"); err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	if got := read(t, dir, changelogFile); got != "# Changelog\n\n## Unreleased\n\n## v0.1.0 2026-12-01\n\n"+want {
		t.Error(got)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, fragmentsDir, "*")); len(left) != 1 {
		t.Error(left)
	}
	if err := foldChangelog(dir, "v0.1.0", now); err == nil {
		t.Error("a version twice")
	}
	if err := foldChangelog(dir, "v0.2.0", now); err == nil || !strings.Contains(err.Error(), "nothing has changed") {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, fragmentsDir, "x.md"), []byte("- third\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := foldChangelog(dir, "v0.1.1", now); err != nil {
		t.Fatal(err)
	}
	if got := read(t, dir, changelogFile); got != "# Changelog\n\n## Unreleased\n\n## v0.1.1 2026-12-01\n\n- third\n\n## v0.1.0 2026-12-01\n\n"+want {
		t.Error(got)
	}
	if got, err := changes(dir, "v0.1.0"); err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
}

func TestChangelogRefused(t *testing.T) {
	for _, dir := range []string{
		changelogOf(t, "# Changelog\n", map[string]string{}),
		changelogOf(t, "## Unreleased\n", map[string]string{"a.md": "no bullet\n"}),
	} {
		if _, err := changes(dir, "v1.0.0"); err == nil {
			t.Error("accepted")
		}
		if err := foldChangelog(dir, "v1.0.0", time.Now()); err == nil {
			t.Error("accepted")
		}
	}
}

// The project's own changelog and fragments are valid.
func TestOwnChangelog(t *testing.T) {
	if text, err := changes(root, "v999.0.0"); err != nil || !strings.HasPrefix(text, "- ") {
		t.Errorf("%.100q, %v", text, err)
	}
}
