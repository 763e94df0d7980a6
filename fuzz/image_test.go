package fuzz

import (
	"strings"
	"testing"

	"sallyport/image/ref"
)

// Whatever a user writes as an image name: what parses is canonical, has a host, and holds no byte that
// could mean something in a path, a header or a log.
func FuzzReference(f *testing.F) {
	for _, s := range []string{"registry.example/team/app:v1", "docker.io/busybox", "localhost:5000/a@sha256:" + strings.Repeat("0", 64),
		"a", "A.b/c", "registry.example/../x", "registry.example/a:b\n", "[::1]:5/a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ref.Parse(s)
		if err != nil {
			if !n.IsZero() {
				t.Fatalf("Parse(%q) refuses and returns %q", s, n)
			}
			oneLine(t, err)
			return
		}
		again, err := ref.Parse(n.String())
		if err != nil || again != n {
			t.Fatalf("Parse(%q) = %q does not read back: %q, %v", s, n, again, err)
		}
		if n.Host() == "" || n.Tag() == "" && n.Digest().IsZero() {
			t.Fatalf("Parse(%q) = %q has no host, or neither tag nor digest", s, n)
		}
		for _, c := range []byte(n.String()) {
			if c <= ' ' || c >= 0x7f || strings.IndexByte("\"'\\?#%*,;$`", c) >= 0 {
				t.Fatalf("Parse(%q) = %q holds byte %q", s, n, c)
			}
		}
		if strings.Contains(n.String(), "..") && strings.Contains(n.Repository(), "/../") {
			t.Fatalf("Parse(%q) = %q climbs", s, n)
		}
	})
}

// FuzzDigest: what parses is sha256 in its one spelling (CVE-2024-3727).
func FuzzDigest(f *testing.F) {
	f.Add("sha256:" + strings.Repeat("a", 64))
	f.Add("sha256:" + strings.Repeat("A", 64))
	f.Add("sha256:../" + strings.Repeat("a", 61))
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ref.ParseDigest(s)
		if err != nil {
			if !d.IsZero() {
				t.Fatalf("ParseDigest(%q) refuses and returns %v", s, d)
			}
			return
		}
		if d.String() != s || len(d.Hex()) != 64 || strings.Trim(d.Hex(), "0123456789abcdef") != "" {
			t.Fatalf("ParseDigest(%q) = %v", s, d)
		}
	})
}
