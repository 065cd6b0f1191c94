package pkg

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// TestExported wants a comment on every exported name of the packages, methods of interfaces
// included, which linters do not look at. A group of constants, variables or fields may have one.
func TestExported(t *testing.T) {
	documented, all := 0, 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "testdata":
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil || ast.IsGenerated(f) {
			return err
		}
		for _, n := range exportedNames(f) {
			all++
			if n.documented {
				documented++
				continue
			}
			t.Errorf("pkg/%s: %s has no comment", fset.Position(n.pos), n.name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if all < 500 {
		t.Errorf("only %d exported names found", all)
	}
	t.Logf("%d of %d exported names are documented", documented, all)
}

// exported is an exported name.
type exported struct {
	name       string
	pos        token.Pos
	documented bool
}

func exportedNames(f *ast.File) (all []exported) {
	add := func(prefix string, id *ast.Ident, docs ...*ast.CommentGroup) {
		if !id.IsExported() || prefix != "" && (id.Name == "Error" || id.Name == "String") { // say it all
			return
		}
		n := exported{name: prefix + id.Name, pos: id.Pos()}
		for _, d := range docs {
			n.documented = n.documented || d.Text() != ""
		}
		all = append(all, n)
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if recv := receiver(d); recv == "" || ast.IsExported(recv) {
				add(recv, d.Name, d.Doc)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					add("", s.Name, s.Doc, s.Comment, d.Doc)
					if i, ok := s.Type.(*ast.InterfaceType); ok && s.Name.IsExported() {
						for _, m := range i.Methods.List {
							for _, id := range m.Names {
								add(s.Name.Name+".", id, m.Doc, m.Comment)
							}
						}
					}
				case *ast.ValueSpec:
					for _, id := range s.Names {
						add("", id, s.Doc, s.Comment, d.Doc)
					}
				}
			}
		}
	}
	return all
}
