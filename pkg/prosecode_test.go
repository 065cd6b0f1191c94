package pkg

import (
	"go/scanner"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// plainCode lists the directories whose comments and string literals are checked.
var plainCode = []string{"charts", "cmd", "examples", "pkg", "python", "test", "tools"}

// quoted are texts of other programs, which tests look for as they are.
var quoted = []string{"can not create pods that reference"}

// bannedInCode are phrases that stood in messages and comments, in addition to those in banned.
var bannedInCode = map[string]string{
	`under way`:                        `running`,
	`has no kek`:                       `missing key: the secret has no field "kek"`,
	`(was|is|be|been) not at rest`:     `was unfrozen`,
	`(bring|brings|bringing) to rest`:  `freeze`,
	`of the past`:                      `stale, earlier`,
	`has the key, give none`:           `accept the key`,
	`who still (uses?|has)`:            `programs that still use`,
	`may not be written`:               `is read-only; formatting is not allowed`,
	`stands? in for`:                   `replaces, simulates`,
	`in place of`:                      `instead of`,
	`let(s)? go of`:                    `releases`,
	`amidst`:                           `in the middle of`,
	`comes? to (its|an|their) end`:     `ends`,
	`(has|have) gone (away|meanwhile)`: `no longer exists`,
	`roomy`:                            `retry on ENOSPC`,
	`s3wishes`:                         `s3options`,
	`is none of ours`:                  `does not belong to this cluster`,
	`taken? off (it|the)`:              `detached, removed`,
	`never by hand`:                    `only`,
}

// TestProseOfCode reads the comments and string literals of Go files: help, errors, log lines and
// conditions are written there.
func TestProseOfCode(t *testing.T) {
	phrases := maps.Clone(banned)
	maps.Copy(phrases, bannedInCode)
	words := compilePhrases(phrases)
	files := 0
	for _, dir := range plainCode {
		err := filepath.WalkDir(filepath.Join("..", dir), func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(file) != ".go" || strings.HasPrefix(d.Name(), "prose") {
				return err
			}
			src, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			files++
			name := strings.TrimPrefix(filepath.ToSlash(file), "../")
			for _, p := range passages(src) {
				if !slices.ContainsFunc(quoted, func(q string) bool { return strings.Contains(p.text, q) }) {
					reportPhrases(t, words, name, p.line, p.text)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < len(plainCode) {
		t.Fatalf("only %d files found", files)
	}
}

// passage is a comment or a message, and the line on which it begins.
type passage struct {
	line int
	text string
}

// passages returns the comments and string literals of a file. It joins the lines of a comment, and
// literals that are added to each other, because phrases may extend over both.
func passages(src []byte) (list []passage) {
	file := token.NewFileSet().AddFile("", -1, len(src))
	var s scanner.Scanner
	s.Init(file, src, nil, scanner.ScanComments)
	var before, last token.Token // the two tokens before this one
	end := 0                     // line on which the last one ends
	for {
		pos, tok, text := s.Scan()
		if tok == token.EOF {
			return list
		}
		if tok == token.SEMICOLON && text == "\n" {
			continue // inserted by the scanner, not in the text
		}
		line := file.Line(pos)
		switch tok {
		case token.COMMENT:
			text = strings.TrimPrefix(text, "//")
			if last == token.COMMENT && line == end+1 {
				list[len(list)-1].text += "\n" + text
			} else {
				list = append(list, passage{line, text})
			}
		case token.STRING:
			plain, err := strconv.Unquote(text)
			if err != nil {
				break // the compiler reports it
			}
			if before == token.STRING && last == token.ADD {
				list[len(list)-1].text += plain
			} else {
				list = append(list, passage{line, plain})
			}
		}
		before, last, end = last, tok, line+strings.Count(text, "\n")
	}
}

// TestPassages: phrases are found across lines of a comment and across added literals.
func TestPassages(t *testing.T) {
	src := "package p\n\n// It is under\n// way.\nvar s = \"in \" +\n\t\"place of\" // a\nvar r = `can\nnot`\n"
	want := []passage{{3, " It is under\n way."}, {5, "in place of"}, {6, " a"}, {7, "can\nnot"}}
	got := passages([]byte(src))
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
