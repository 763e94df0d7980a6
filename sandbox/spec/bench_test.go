package spec

import (
	"testing"

	"sallyport/policy/baseline"
)

// BenchmarkBuildAndCheck is what every CreateContainer pays for its spec: building it and judging it.
func BenchmarkBuildAndCheck(b *testing.B) {
	in := usual()
	b.Run("build", func(b *testing.B) {
		for b.Loop() {
			if _, err := Build(in); err != nil {
				b.Fatal(err)
			}
		}
	})
	out, err := Build(in)
	if err != nil {
		b.Fatal(err)
	}
	f := facts(in)
	b.Run("check", func(b *testing.B) {
		for b.Loop() {
			if found := baseline.Check(out.JSON, f, in.Floor); len(found) > 0 {
				b.Fatal(found)
			}
		}
	})
	b.ReportMetric(float64(len(out.JSON)), "bytes")
}
