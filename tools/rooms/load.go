package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// pkg is a package with its types.
type pkg struct {
	path  string
	fset  *token.FileSet
	types *types.Package
	info  *types.Info
	files []*ast.File
	lines map[string]int // of each file
}

// listed is the go command's description of a package.
type listed struct {
	ImportPath string
	Dir        string
	Export     string
	GoFiles    []string
	DepOnly    bool
}

// load type-checks the package in a directory. It reads imports from the compiler's export data, so
// only this package is read as source.
func load(dir string) (*pkg, error) {
	target, exports, err := list(dir)
	if err != nil {
		return nil, err
	}
	p := &pkg{path: target.ImportPath, fset: token.NewFileSet(), lines: map[string]int{},
		info: &types.Info{Uses: map[*ast.Ident]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{}}}
	for _, name := range target.GoFiles {
		f, err := parser.ParseFile(p.fset, filepath.Join(target.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		p.files = append(p.files, f)
		p.lines[name] = p.fset.File(f.Pos()).LineCount()
	}
	conf := types.Config{Importer: importer.ForCompiler(p.fset, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	})}
	p.types, err = conf.Check(p.path, p.fset, p.files, p.info)
	return p, err
}

// list asks the go command for the package in a directory and for the export data of everything
// that it imports. The command runs in that directory, because the directory may belong to another
// module than this program.
func list(dir string) (target *listed, exports map[string]string, err error) {
	cmd := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles,DepOnly", "--", ".")
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, nil, fmt.Errorf("go list in %s: %w", dir, err)
	}
	exports = map[string]string{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		if err := d.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, nil, err
		}
		exports[l.ImportPath] = l.Export
		if !l.DepOnly {
			target = &l
		}
	}
	if target == nil {
		return nil, nil, fmt.Errorf("no package in %s", dir)
	}
	return target, exports, nil
}

// count returns the numbers of fields and methods of a type; an embedded type counts as one field.
func (p *pkg) count(name string) (fields, methods int, err error) {
	obj := p.types.Scope().Lookup(name)
	if obj == nil {
		return 0, 0, fmt.Errorf("%s does not declare %s", p.path, name)
	}
	named, ok := obj.Type().(*types.Named)
	if !ok {
		return 0, 0, fmt.Errorf("%s.%s is not a named type", p.path, name)
	}
	if s, ok := named.Underlying().(*types.Struct); ok {
		fields = s.NumFields()
	}
	return fields, named.NumMethods(), nil
}

// graph returns which file needs which others, and by which names.
func (p *pkg) graph() map[string]map[string][]string {
	g := map[string]map[string][]string{}
	for _, f := range p.files {
		from := p.file(f.Pos())
		needs := map[string]map[string]bool{}
		ast.Inspect(f, func(n ast.Node) bool {
			id, ok := n.(*ast.Ident)
			if !ok {
				return true
			}
			obj := p.info.Uses[id]
			if obj == nil || obj.Pkg() != p.types || !obj.Pos().IsValid() {
				return true
			}
			if to := p.file(obj.Pos()); to != from {
				if needs[to] == nil {
					needs[to] = map[string]bool{}
				}
				needs[to][obj.Name()] = true
			}
			return true
		})
		g[from] = map[string][]string{}
		for to, names := range needs {
			g[from][to] = slices.Sorted(maps.Keys(names))
		}
	}
	return g
}

func (p *pkg) file(pos token.Pos) string { return filepath.Base(p.fset.Position(pos).Filename) }

// printEdges lists what a file needs of other files, and what they need of it.
func (p *pkg) printEdges(w io.Writer, name string) error {
	g := p.graph()
	if g[name] == nil {
		return fmt.Errorf("%s has no file %s", p.path, name)
	}
	for _, to := range slices.Sorted(maps.Keys(g[name])) {
		fmt.Fprintf(w, "%s needs of %s: %s\n", name, to, strings.Join(g[name][to], " "))
	}
	for _, from := range slices.Sorted(maps.Keys(g)) {
		if names := g[from][name]; names != nil {
			fmt.Fprintf(w, "%s needs of %s: %s\n", from, name, strings.Join(names, " "))
		}
	}
	return nil
}
