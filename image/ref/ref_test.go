package ref

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

const hex64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestParse(t *testing.T) {
	for _, tc := range []struct{ in, want, repo, host, tag string }{
		{"registry.example/team/app:v1", "registry.example/team/app:v1", "registry.example/team/app", "registry.example", "v1"},
		{"registry.example:5000/app", "registry.example:5000/app:latest", "registry.example:5000/app", "registry.example:5000", "latest"},
		{"localhost/app:v1", "localhost/app:v1", "localhost/app", "localhost", "v1"},
		{"docker.io/busybox", "docker.io/library/busybox:latest", "docker.io/library/busybox", "docker.io", "latest"},
		{"registry.example/app@sha256:" + hex64, "registry.example/app@sha256:" + hex64, "registry.example/app", "registry.example", ""},
		{"registry.example/app:v1@sha256:" + hex64, "registry.example/app:v1@sha256:" + hex64, "registry.example/app", "registry.example", "v1"},
		{"[::1]:5000/app:v1", "[::1]:5000/app:v1", "[::1]:5000/app", "[::1]:5000", "v1"},
	} {
		n, err := Parse(tc.in)
		if err != nil || n.String() != tc.want || n.Repository() != tc.repo || n.Host() != tc.host || n.Tag() != tc.tag {
			t.Errorf("Parse(%q) = %q (%q %q %q), %v; want %q (%q %q %q)", tc.in, n, n.Repository(), n.Host(), n.Tag(), err, tc.want, tc.repo, tc.host, tc.tag)
			continue
		}
		if again, err := Parse(n.String()); err != nil || again != n {
			t.Errorf("Parse(%q) of the canonical form = %v, %v", n, again, err)
		}
		b, err := json.Marshal(n)
		var back Name
		if err != nil || json.Unmarshal(b, &back) != nil || back != n {
			t.Errorf("JSON of %q reads back as %q", n, back)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tc := range []struct {
		in    string
		short bool
	}{
		{"", true}, {"busybox", true}, {"library/busybox", true}, {"busybox:v1", true},
		{"registry.example/UPPER", false}, {"registry.example/", false}, {"registry.example/a b", false},
		{"registry.example/a\nb", false}, {"registry.example/UP\x1b\n", false}, {"registry.example/../a", false}, {"registry.example//a", false},
		{"registry.example/a:", false}, {"registry.example/a:" + strings.Repeat("t", 129), false},
		{"registry.example/a@sha256:" + hex64[1:], false}, {"registry.example/a@sha512:" + hex64 + hex64, false},
		{"registry.example/a@sha256:" + strings.ToUpper(hex64), false},
		{"https://registry.example/a", false}, {hex64, true},
		{"registry.example/" + strings.Repeat("a/", 120) + "a:" + strings.Repeat("t", 120) + "@sha256:" + hex64 + strings.Repeat(" ", 200), false},
	} {
		n, err := Parse(tc.in)
		if err == nil {
			t.Errorf("Parse(%q) = %q, want a refusal", tc.in, n)
			continue
		}
		if errors.Is(err, ErrShortName) != tc.short {
			t.Errorf("Parse(%q) = %v; short name %v, want %v", tc.in, err, !tc.short, tc.short)
		}
		if strings.ContainsAny(err.Error(), "\n\r\x1b") {
			t.Errorf("Parse(%q) answers %q, want one line", tc.in, err)
		}
		if !n.IsZero() {
			t.Errorf("Parse(%q) refuses and returns %q", tc.in, n)
		}
	}
	if _, err := Parse("registry.example/a:" + strings.Repeat("t", MaxName)); err == nil || !strings.Contains(err.Error(), "512") {
		t.Errorf("Parse() of a name too long = %v, want the limit", err)
	}
}

func TestParseDigestRefuses(t *testing.T) {
	if d, err := ParseDigest("sha256:" + hex64); err != nil || d.Hex() != hex64 || d.String() != "sha256:"+hex64 {
		t.Errorf("ParseDigest() = %v, %v", d, err)
	}
	for _, s := range []string{"", "sha256:", hex64, "sha256:" + hex64[1:], "sha256:" + hex64 + "0", "SHA256:" + hex64,
		"sha256:" + strings.ToUpper(hex64), "sha512:" + hex64 + hex64, "sha256:" + hex64[:63] + "g", "sha256:" + hex64[:63] + "/",
		"sha256:../../../../../../../../../../../../../../../../../etc/passwd/0000000"} {
		if d, err := ParseDigest(s); err == nil || !d.IsZero() {
			t.Errorf("ParseDigest(%q) = %v, %v; want a refusal", s, d, err)
		}
	}
}

func TestZero(t *testing.T) {
	var n Name
	var d Digest
	if !n.IsZero() || n.String() != "" || n.Host() != "" || !d.IsZero() || d.String() != "" || d.Hex() != "" {
		t.Error("the zero values print as something")
	}
	if err := n.UnmarshalText(nil); err != nil || !n.IsZero() {
		t.Errorf("UnmarshalText(nil) = %v", err)
	}
	if DigestOf(nil).String() != "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" {
		t.Error("DigestOf(nil) is not SHA-256 of nothing")
	}
}
