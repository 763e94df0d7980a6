// Package security holds the promises of SECURITY.md as tests: the import graph, the calls that only
// certain rooms may make, attempts to get past the gate, and the text of the promises themselves.
package security

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// file is one parsed Go file of the repository.
type file struct {
	path string // slash-separated, from the repository's root
	pkg  string // folder
	test bool
	ast  *ast.File
}

var fset = token.NewFileSet()

// tree parses every Go file of the repository, without comments' positions mattering.
func tree(t *testing.T) (files []file) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if path != ".." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel := filepath.ToSlash(strings.TrimPrefix(path, "../"))
		files = append(files, file{path: rel, pkg: pathDir(rel), test: strings.HasSuffix(name, "_test.go"), ast: parsed})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 50 {
		t.Fatalf("found %d Go files; the walk is broken", len(files))
	}
	return files
}

func pathDir(p string) string {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return "."
}

func (f file) imports() (paths []string) {
	for _, i := range f.ast.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		paths = append(paths, p)
	}
	return paths
}

// selector returns "import/path.Name" of each selector on an imported package, with its position.
func (f file) selectors(visit func(name string, pos token.Pos)) {
	names := map[string]string{}
	for _, i := range f.ast.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		local := p[strings.LastIndexByte(p, '/')+1:]
		if i.Name != nil {
			local = i.Name.Name
		}
		names[local] = p
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if id, ok := sel.X.(*ast.Ident); ok && id.Obj == nil {
			if p, ok := names[id.Name]; ok {
				visit(p+"."+sel.Sel.Name, sel.Pos())
			}
		}
		return true
	})
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
