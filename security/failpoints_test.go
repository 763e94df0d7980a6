package security

import (
	"go/ast"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sallyport/internal/failpoint"
)

// TestFailpoints: the list of failpoints is what the code calls, each once, and nothing that ships is
// built with them: neither tag nor variable is named outside the package and its tests.
func TestFailpoints(t *testing.T) {
	var called []string
	for _, f := range tree(t) {
		if f.test || strings.HasPrefix(f.pkg, "test/") || f.pkg == "internal/failpoint" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 1 {
				return true
			}
			fun, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || fun.Sel.Name != "Hit" {
				return true
			}
			if pkg, ok := fun.X.(*ast.Ident); !ok || pkg.Name != "failpoint" {
				return true
			}
			if lit, ok := call.Args[0].(*ast.BasicLit); ok {
				name, _ := strconv.Unquote(lit.Value)
				called = append(called, name)
			} else {
				t.Errorf("%s: a failpoint without a name", f.path)
			}
			return true
		})
	}
	listed := slices.Sorted(slices.Values(failpoint.Points))
	slices.Sort(called)
	if !slices.Equal(called, listed) {
		t.Errorf("the code calls %q\nthe list has %q", called, listed)
	}
	for _, name := range []string{"Makefile", ".ci/run", "packaging/sallyportd.service"} {
		if strings.Contains(read(t, name), "failpoint") {
			t.Errorf("%s builds or arms failpoints", name)
		}
	}
}
