package pkg

import (
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// maxProse is the longest line of prose in a document, in characters.
const maxProse = 100

// banned are phrases that readers stumbled over, each with what says the same plainly. They match
// regardless of case and line breaks.
var banned = map[string]string{
	`can not`:                               `cannot`,
	`(it|the scheduler) looks on`:           `the scheduler tries another node`,
	`saves? it the (search|try)`:            `avoids the search`,
	`without further ado`:                   `by default`,
	`who (means|wants|has|knows|reads) to`:  `to do it, first …; or: users who …`,
	`which that is`:                         `which one it is becomes known`,
	`what is without`:                       `without it, …`,
	`takes (that|it|this) for`:              `considers it`,
	`leaves no \w+ undone`:                  `completes each exactly once`,
	`names him`:                             `names it`,
	`finished by its repetitions`:           `the retry resumes it`,
	`it is a moment`:                        `it is brief`,
	`lets nobody`:                           `it is immutable`,
	`fdatasync count`:                       `fsync makes all earlier writes durable`,
	`under way already`:                     `already running`,
	`(held|brought) (at|to) rest`:           `frozen`,
	`state of the past`:                     `stale state`,
	`of no kind that`:                       `unexpected type`,
	`cut(s|ting)? off who`:                  `aborts the connection`,
	`goes? on where`:                        `resumes where`,
	`share trees?`:                          `reference-count tree`,
	`quads?`:                                `node slot`,
	`watch(es)? over (it|this|the)`:         `tests it`,
	`by itself alone`:                       `alone`,
	`(has|have) not got`:                    `does not have`,
	`who(ever)? owns a node (can|has|gets)`: `the owner of a node …`,
}

// TestProse reads every document as its readers do: lines that fit, plain words, and links, tests
// and files that exist.
func TestProse(t *testing.T) {
	docs, goFiles, tests := readRepository(t)
	if len(docs) < 40 {
		t.Fatalf("only %d documents found", len(docs))
	}
	words := compilePhrases(banned)
	for _, name := range slices.Sorted(maps.Keys(docs)) {
		prose := blankCode(docs[name])
		for i, line := range strings.Split(prose, "\n") {
			if tooLong(line) {
				t.Errorf("%s:%d: longer than %d characters: wrap it", name, i+1, maxProse)
			}
		}
		reportPhrases(t, words, name, 1, prose)
		checkLinks(t, docs, name, prose)
		checkNames(t, name, prose, goFiles, tests)
	}
}

// maxWide is the longest line of a document that users read beside a terminal: commands, examples
// and tables included.
const maxWide = 120

// narrow are these documents.
var narrow = []string{"README.md", "CONTRIBUTING.md", "docs/adr/README.md", "docs/cli.md", "docs/install.md", "docs/operator.md",
	"docs/snapshots.md", "docs/tour.md", "docs/install/air-gapped.md", "docs/install/bare-metal.md", "docs/install/eks.md", "docs/install/k3s.md", "docs/install/kind.md",
	"docs/install/try.md"}

// TestWidth: in the documents for users, only the output of commands that a test runs may be wide.
func TestWidth(t *testing.T) {
	docs, _, _ := readRepository(t)
	for _, name := range narrow {
		console, tested := false, name == "docs/tour.md" || name == "docs/snapshots.md" || name == "docs/install/try.md"
		for i, line := range strings.Split(docs[name], "\n") {
			if strings.HasPrefix(line, "```") {
				console = line == "```console"
			}
			output := console && !strings.HasPrefix(line, "$ ")
			if utf8.RuneCountInString(line) > maxWide && !(output && tested) {
				t.Errorf("%s:%d: wider than %d columns: split it, or turn the table into a list", name, i+1, maxWide)
			}
		}
		if docs[name] == "" {
			t.Errorf("there is no %s", name)
		}
	}
}

// compilePhrases compiles phrases to match as whole words, regardless of case and line breaks.
func compilePhrases(phrases map[string]string) map[*regexp.Regexp]string {
	words := map[*regexp.Regexp]string{}
	for phrase, instead := range phrases {
		words[regexp.MustCompile(`(?i)(^|\W)(`+strings.ReplaceAll(phrase, " ", `\s+`)+`)(\W|$)`)] = instead
	}
	return words
}

// reportPhrases fails for each phrase in a text that begins on a line of a file.
func reportPhrases(t *testing.T, words map[*regexp.Regexp]string, name string, line int, text string) {
	t.Helper()
	for word, instead := range words {
		for _, at := range word.FindAllStringSubmatchIndex(text, -1) {
			t.Errorf("%s:%d: %q: write plainly, such as %q", name, line+strings.Count(text[:at[4]], "\n"), text[at[4]:at[5]], instead)
		}
	}
}

// readRepository returns all documents by name, the names of all Go files without their folders,
// and those of all tests.
func readRepository(t *testing.T) (docs map[string]string, goFiles, tests map[string]bool) {
	t.Helper()
	docs, goFiles, tests = map[string]string{}, map[string]bool{}, map[string]bool{}
	define := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err := filepath.WalkDir("..", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); file != ".." && (strings.HasPrefix(n, ".") && n != ".github" || n == "build" || n == "dist" || n == "bin" || strings.HasSuffix(n, ".egg-info")) {
				return filepath.SkipDir
			}
			return nil
		}
		ext := filepath.Ext(file)
		if ext != ".md" && ext != ".go" {
			return nil
		}
		b, err := os.ReadFile(file)
		if ext == ".md" {
			docs[strings.TrimPrefix(filepath.ToSlash(file), "../")] = string(b)
			return err
		}
		goFiles[d.Name()] = true
		for _, m := range define.FindAllSubmatch(b, -1) {
			tests[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return docs, goFiles, tests
}

// blankCode empties the lines of code blocks and comments, so that lines keep their numbers.
func blankCode(text string) string {
	var out strings.Builder
	fenced := false
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		fence := strings.HasPrefix(trimmed, "```")
		if fence {
			fenced = !fenced
		}
		if fenced || fence || strings.HasPrefix(trimmed, "<!--") {
			line = "\n"
		}
		out.WriteString(line)
	}
	return out.String()
}

var linkTarget = regexp.MustCompile(`\]\(([^()\s]+)\)`)

// tooLong tells whether a line should be wrapped. Tables cannot be; a long word, such as a URL,
// neither, and what a link leads to is not read.
func tooLong(line string) bool {
	if strings.HasPrefix(strings.TrimSpace(line), "|") {
		return false
	}
	line = linkTarget.ReplaceAllString(line, "]")
	return utf8.RuneCountInString(line) > maxProse && len(strings.Fields(line)) > 2
}

// checkLinks fails for links within the repository that lead nowhere.
func checkLinks(t *testing.T, docs map[string]string, name, prose string) {
	t.Helper()
	for _, m := range linkTarget.FindAllStringSubmatch(prose, -1) {
		target, anchor, _ := strings.Cut(m[1], "#")
		if strings.Contains(m[1], "://") {
			continue
		}
		file := name
		if target != "" {
			file = path.Join(path.Dir(name), target)
		}
		text, isDocument := docs[file]
		if _, err := os.Stat(filepath.Join("..", file)); err != nil {
			t.Errorf("%s: link to %s: there is no %s", name, m[1], file)
		} else if anchor != "" && (!isDocument || !slices.Contains(anchorsOf(text), anchor)) {
			t.Errorf("%s: link to %s: %s has no such heading", name, m[1], file)
		}
	}
}

// anchorsOf are the names that GitHub gives to the headings of a document.
func anchorsOf(text string) (anchors []string) {
	for line := range strings.Lines(blankCode(text)) {
		if !strings.HasPrefix(line, "#") {
			continue
		}
		anchors = append(anchors, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, strings.TrimSpace(strings.TrimLeft(line, "#"))))
	}
	return anchors
}

var (
	namedTest = regexp.MustCompile("`(Test[A-Z]\\w*)(/\\w+)?`")
	namedFile = regexp.MustCompile(`[\w/.-]*?(\w+\.go)\b`)
)

// checkNames fails for tests and Go files that a document names and that are not there. Records of
// decisions and of changes may name files that have gone since.
func checkNames(t *testing.T, name, prose string, goFiles, tests map[string]bool) {
	t.Helper()
	for _, m := range namedTest.FindAllStringSubmatch(prose, -1) {
		if !tests[m[1]] {
			t.Errorf("%s: there is no %s", name, m[1])
		}
	}
	if strings.HasPrefix(name, "docs/adr/") || strings.HasPrefix(name, "changelog.d/") || name == "CHANGELOG.md" {
		return
	}
	for _, m := range namedFile.FindAllStringSubmatch(prose, -1) {
		if m[1] != "_test.go" && !goFiles[m[1]] { // ebs_*_test.go are many
			t.Errorf("%s: there is no %s", name, m[1])
		}
	}
}
