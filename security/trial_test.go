package security

import (
	"go/ast"
	"slices"
	"testing"
)

// TestStatedClaimsStayInTheirCases: policy/trial takes claims as proved that a file states. The operator's
// tool and the daemon's self-test of a bundle may hold it, no room that judges may, and nothing but an
// error leaves it.
func TestStatedClaimsStayInTheirCases(t *testing.T) {
	holders := []string{"cmd/sallyport", "cmd/sallyportd"}
	for _, f := range tree(t) {
		if !f.test && !slices.Contains(holders, f.pkg) && slices.Contains(f.imports(), "sallyport/policy/trial") {
			t.Errorf("%s imports policy/trial", f.path)
		}
		if f.test || f.pkg != "policy/trial" {
			continue
		}
		for _, d := range f.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if !d.Name.IsExported() || d.Recv != nil {
					continue // the types are not exported, which is held below
				}
				r := d.Type.Results
				if id, ok := r.List[0].Type.(*ast.Ident); len(r.List) != 1 || !ok || id.Name != "error" {
					t.Errorf("%s: %s returns more than an error", f.path, d.Name.Name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					if ts, ok := s.(*ast.TypeSpec); ok && ts.Name.IsExported() {
						t.Errorf("%s: type %s is exported", f.path, ts.Name.Name)
					}
				}
			}
		}
	}
}
