package pkg

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
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

// Limits on what a reader has to hold in mind at once, in lines.
const (
	maxFile = 500
	maxFunc = 70
)

// tidyFile lists what is longer than the limits, one entry a line: "file" or
// "func", the name, its length, and the reason why it stays so. It may only
// shrink: TestTidy fails for an entry that is not needed or longer than what
// it is for, and -tidy.update lowers and removes, but never adds.
const tidyFile = "testdata/tidy.txt"

var tidyUpdate = flag.Bool("tidy.update", false, "lower and remove entries of "+tidyFile)

// tidyRoots are the folders whose Go files are ours to read.
var tidyRoots = []string{"charts", "cmd", "examples", "pkg", "python", "test", "tools"}

// TestTidy keeps files and functions short, and prints how long they are.
func TestTidy(t *testing.T) {
	files, funcs := map[string]int{}, map[string]int{}
	for _, root := range tidyRoots {
		err := filepath.WalkDir(filepath.Join("..", root), func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && (d.Name() == "testdata" || d.Name() == "node_modules" || strings.HasPrefix(d.Name(), ".")):
				return filepath.SkipDir
			case d.IsDir() || filepath.Ext(path) != ".go":
				return nil
			}
			return measure(path, strings.TrimPrefix(filepath.ToSlash(path), "../"), files, funcs)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(files) < 100 {
		t.Fatalf("only %d files found", len(files))
	}
	table(t, "files", files, maxFile)
	table(t, "functions", funcs, maxFunc)

	listed, reasons := readTidy(t)
	found := map[string]int{}
	for name, n := range files {
		if n > maxFile {
			found["file "+name] = n
		}
	}
	for name, n := range funcs {
		if n > maxFunc {
			found["func "+name] = n
		}
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if n := found[name]; listed[name] == 0 {
			t.Errorf("%s has %d lines: split it by what its parts own", name, n)
		} else if n > listed[name] {
			t.Errorf("%s has grown from %d to %d lines: split it by what its parts own", name, listed[name], n)
		}
	}
	if *tidyUpdate {
		writeTidy(t, listed, found, reasons)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		if n := found[name]; n < listed[name] {
			t.Errorf("%s is shorter than %s says: run `go test ./pkg -run TestTidy -tidy.update`", name, tidyFile)
		}
	}
}

// measure adds the lengths of one file and of its functions. In tests a table
// of cases is data, not steps, and does not count; functions in it do.
func measure(path, name string, files, funcs map[string]int) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, path, data, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	if ast.IsGenerated(f) {
		return nil
	}
	files[name] = bytes.Count(data, []byte("\n"))
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			n := lines(fset, fn)
			if strings.HasSuffix(name, "_test.go") {
				n -= tableLines(fset, fn)
			}
			funcs[name+" "+receiver(fn)+fn.Name.Name] = n
		}
	}
	return nil
}

func lines(fset *token.FileSet, n ast.Node) int {
	return 1 + fset.Position(n.End()).Line - fset.Position(n.Pos()).Line
}

// tableLines counts the lines of composite literals under n, without those of
// functions that they hold.
func tableLines(fset *token.FileSet, n ast.Node) (count int) {
	ast.Inspect(n, func(n ast.Node) bool {
		table, ok := n.(*ast.CompositeLit)
		if !ok {
			return true
		}
		count += lines(fset, table) - 1
		ast.Inspect(table, func(n ast.Node) bool {
			if fn, ok := n.(*ast.FuncLit); ok {
				count -= lines(fset, fn) - 1 - tableLines(fset, fn)
				return false
			}
			return true
		})
		return false
	})
	return count
}

// receiver is the name of a method's type, and a dot.
func receiver(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return ""
	}
	typ := fn.Recv.List[0].Type
	for {
		switch t := typ.(type) {
		case *ast.StarExpr:
			typ = t.X
		case *ast.IndexExpr:
			typ = t.X
		case *ast.IndexListExpr:
			typ = t.X
		case *ast.Ident:
			return t.Name + "."
		default:
			return ""
		}
	}
}

func table(t *testing.T, what string, lengths map[string]int, limit int) {
	for _, tests := range []bool{false, true} {
		var all []int
		longest, over := "", 0
		for name, n := range lengths {
			if strings.Contains(name, "_test.go") != tests {
				continue
			}
			all = append(all, n)
			if n > lengths[longest] {
				longest = name
			}
			if n > limit {
				over++
			}
		}
		slices.Sort(all)
		kind := ""
		if tests {
			kind = " of tests"
		}
		t.Logf("%d %s%s: median %d lines, p90 %d, longest %d (%s), over %d: %d", len(all), what, kind, all[len(all)/2], all[len(all)*9/10], lengths[longest], longest, limit, over)
	}
}

func readTidy(t *testing.T) (listed map[string]int, reasons map[string]string) {
	listed, reasons = map[string]int{}, map[string]string{}
	data, err := os.ReadFile(tidyFile)
	if err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		line, reason, _ := strings.Cut(s.Text(), "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		n, err := strconv.Atoi(words[len(words)-1])
		if err != nil || len(words) < 3 {
			t.Fatalf("%s: %q is no entry", tidyFile, s.Text())
		}
		name := strings.Join(words[:len(words)-1], " ")
		listed[name], reasons[name] = n, strings.TrimSpace(reason)
	}
	return listed, reasons
}

func writeTidy(t *testing.T, listed, found map[string]int, reasons map[string]string) {
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		n := min(listed[name], found[name])
		if n == 0 {
			continue
		}
		fmt.Fprintf(&out, "%s %d", name, n)
		if reasons[name] != "" {
			fmt.Fprintf(&out, " # %s", reasons[name])
		}
		out.WriteString("\n")
	}
	if err := os.WriteFile(tidyFile, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
