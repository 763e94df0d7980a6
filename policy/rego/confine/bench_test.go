package confine

import (
	"testing"

	"sallyport/policy"
	"sallyport/policy/rego"
)

func BenchmarkWarm(b *testing.B) {
	here, err := rego.Compile(rego.Options{Modules: map[string]string{"rego/a.rego": exact}, Packages: []string{"sallyport.run"}})
	if err != nil {
		b.Fatal(err)
	}
	there := compile(b, newChild(b, 0), "pay", exact)
	there.(*rule).tenant.used = -1 << 60 // no budget
	for name, r := range map[string]policy.ActRule{"in process": here, "confined": there} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if deny, _, err := r.JudgeAct(b.Context(), act(true), nil); err != nil || len(deny) != 1 {
					b.Fatal(deny, err)
				}
			}
		})
	}
}
