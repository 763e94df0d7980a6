package spec

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"sallyport/policy/baseline"
)

func i64(n int64) *int64 { return &n }

// TestUsers: who the process is (CVE-2024-40635, CVE-2026-46680: a number that is no ID is refused, and
// never becomes another; CVE-2022-2995, CVE-2023-25173: the primary group is always among the groups).
func TestUsers(t *testing.T) {
	passwd := "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n# c\nbad:x:-1:0::/:\nbig:x:4294967296:0::/:\n0x0:x:77:78::/:/\n" + "1000:x:0:0::/:/\n"
	group := "root:x:0:\nwheel:x:10:app\naudio:x:29:root,app\nneg:x:-5:app\n"
	for _, c := range []struct {
		name     string
		image    string
		security ContainerSecurity
		want     string // uid gid groups, or part of the error
	}{
		{"nothing", "", ContainerSecurity{}, "0 0 [0 29]"},
		{"name", "app", ContainerSecurity{}, "1000 1001 [10 29 1001]"},
		{"name and group", "app:audio", ContainerSecurity{}, "1000 29 [10 29]"},
		{"name and number", "app:5", ContainerSecurity{}, "1000 5 [5 10 29]"},
		{"number in passwd", "1000", ContainerSecurity{}, "1000 1001 [10 29 1001]"},
		{"number elsewhere", "2000", ContainerSecurity{}, "2000 0 [0]"},
		{"number and group", "2000:2001", ContainerSecurity{}, "2000 2001 [2001]"},
		{"greatest", "2147483647", ContainerSecurity{}, "2147483647 0 [0]"},
		{"hexadecimal is a name", "0x0", ContainerSecurity{}, "77 78 [78]"},
		{"too great", "2147483648", ContainerSecurity{}, "plain number"},
		{"overflow", "4294967296", ContainerSecurity{}, "plain number"},
		{"two zeros", "00", ContainerSecurity{}, "plain number"},
		{"leading zero", "01000", ContainerSecurity{}, "plain number"},
		{"negative", "-1", ContainerSecurity{}, "not in the image's /etc/passwd"},
		{"plus", "+0", ContainerSecurity{}, "not in the image's /etc/passwd"},
		{"negative in passwd", "bad", ContainerSecurity{}, "not in the image's /etc/passwd"},
		{"overflow in passwd", "big", ContainerSecurity{}, "not in the image's /etc/passwd"},
		{"unknown", "nobody", ContainerSecurity{}, "not in the image's /etc/passwd"},
		{"unknown group", "app:none", ContainerSecurity{}, "not in the image's /etc/group"},
		{"group overflow", "app:4294967296", ContainerSecurity{}, "plain number"},
		{"asked", "app:audio", ContainerSecurity{RunAsUser: i64(0)}, "0 0 [0 29]"},
		{"asked with group", "", ContainerSecurity{RunAsUser: i64(5), RunAsGroup: i64(6)}, "5 6 [6]"},
		{"asked name", "", ContainerSecurity{RunAsUsername: "app"}, "1000 1001 [10 29 1001]"},
		{"both", "", ContainerSecurity{RunAsUser: i64(1), RunAsUsername: "app"}, "both set"},
		{"group alone", "", ContainerSecurity{RunAsGroup: i64(1)}, "without runAsUser"},
		{"asked negative", "", ContainerSecurity{RunAsUser: i64(-1)}, "not between"},
		{"asked overflow", "", ContainerSecurity{RunAsUser: i64(1 << 32)}, "not between"},
		{"asked group overflow", "", ContainerSecurity{RunAsUser: i64(1), RunAsGroup: i64(1 << 31)}, "not between"},
		{"supplemental", "app", ContainerSecurity{SupplementalGroups: []int64{7, 29}}, "1000 1001 [7 10 29 1001]"},
		{"strict", "app", ContainerSecurity{SupplementalGroups: []int64{7}, StrictGroups: true}, "1000 1001 [7 1001]"},
		{"supplemental overflow", "app", ContainerSecurity{SupplementalGroups: []int64{1 << 31}}, "not between"},
	} {
		in := usual()
		in.Passwd, in.Group, in.Image.User = []byte(passwd), []byte(group), c.image
		c.security.Namespaces = in.Container.Security.Namespaces
		in.Container.Security = c.security
		out, err := Build(in)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			u := out.Spec.Process.User
			got = fmt.Sprint(u.UID, u.GID, u.AdditionalGids)
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// TestUserFilesAreBounded: CVE-2025-4437, CVE-2026-47262.
func TestUserFilesAreBounded(t *testing.T) {
	in := usual()
	in.Passwd = append([]byte("app:x:1:1::/:\n"), make([]byte, maxAccounts)...)
	if _, err := Build(in); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("Build() with 1 MiB of passwd = %v, want a refusal", err)
	}
	in = usual()
	var b strings.Builder
	for i := range maxGroups + 1 {
		fmt.Fprintf(&b, "g%d:x:%d:app\n", i, 3000+i)
	}
	in.Group, in.Image.User = []byte(b.String()), "app"
	if _, err := Build(in); err == nil || !strings.Contains(err.Error(), "groups") {
		t.Errorf("Build() with %d groups = %v, want a refusal", maxGroups+1, err)
	}
}

func TestRootNeedsTheFloorOrAUserNamespace(t *testing.T) {
	root := func(in *Input) { in.Floor = baseline.ForLevel(baseline.Restricted) }
	if out := build(t, root); len(out.Refusals) != 1 || out.Refusals[0].Knob != "rootUser" {
		t.Errorf("Refusals = %v, want rootUser", out.Refusals)
	}
	out := build(t, func(in *Input) {
		root(in)
		in.Pod.Security.Namespaces.User, in.Namespaces.User = UserNamespace{Mode: NamespacePod}, "/run/sallyport/pods/p1/ns/user"
	})
	if len(out.Refusals) > 0 {
		t.Errorf("Refusals with a user namespace = %v, want none", out.Refusals)
	}
}

func TestCommand(t *testing.T) {
	for name, c := range map[string]struct{ command, args, entry, cmd, want []string }{
		"image":              {nil, nil, []string{"/e"}, []string{"c"}, []string{"/e", "c"}},
		"args":               {nil, []string{"a"}, []string{"/e"}, []string{"c"}, []string{"/e", "a"}},
		"command":            {[]string{"/x"}, nil, []string{"/e"}, []string{"c"}, []string{"/x"}},
		"both":               {[]string{"/x"}, []string{"a"}, []string{"/e"}, []string{"c"}, []string{"/x", "a"}},
		"cmd alone":          {nil, nil, nil, []string{"c"}, []string{"c"}},
		"nothing":            {nil, nil, nil, nil, nil},
		"empty program":      {[]string{""}, nil, nil, nil, nil},
		"zero byte in image": {nil, nil, []string{"/e\x00"}, nil, nil},
		"not text":           {[]string{"/e\xff"}, nil, nil, nil, nil},
	} {
		in := usual()
		in.Container.Command, in.Container.Args, in.Image.Entrypoint, in.Image.Cmd = c.command, c.args, c.entry, c.cmd
		out, err := Build(in)
		if c.want == nil && err == nil || c.want != nil && (err != nil || !slices.Equal(out.Spec.Process.Args, c.want)) {
			t.Errorf("%s: Build() = %v, want %v", name, err, c.want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	out := build(t, func(in *Input) {
		in.Container.TTY = true
		in.Image.Env = []string{"PATH=/image", "LANG=C", "broken", "=x", "HOME=/\nroot::0:0::/:", "BAD=\x00", "N\nL=x"}
		in.Container.Env = []EnvVar{{"LANG", []byte("de")}, {"MULTI", []byte("a\nb=c")}}
	})
	want := []string{"PATH=/image", "HOSTNAME=web", "TERM=xterm", "HOME=/root", "LANG=de", "MULTI=a\nb=c"}
	if got := out.Spec.Process.Env; !slices.Equal(got, want) {
		t.Errorf("env = %q, want %q", got, want)
	}
	for _, bad := range []EnvVar{{"", nil}, {"A=B", nil}, {"A", []byte("\xff")}, {"A", []byte("\x00")}, {"HOME", []byte("/\nx")}} { // CVE-2022-4318
		in := usual()
		in.Container.Env = []EnvVar{bad}
		if _, err := Build(in); err == nil {
			t.Errorf("Build() with variable %q=%q succeeded", bad.Name, bad.Value)
		}
	}
	hostile := build(t, func(in *Input) { in.Passwd = []byte("root:x:0:0::/ro\rot:/bin/sh\n") })
	if !slices.Contains(hostile.Spec.Process.Env, "HOME=/") {
		t.Errorf("env = %q, want HOME=/ where passwd holds control characters", hostile.Spec.Process.Env)
	}
}

// TestWorkingDirectory: CVE-2024-21626.
func TestWorkingDirectory(t *testing.T) {
	for _, c := range []struct {
		asked, image, want string
		refused            bool
	}{
		{"", "", "/", false}, {"", "/srv", "/srv", false}, {"/a/../b", "/srv", "/b", false}, {"app", "", "/app", false},
		{"", "/proc/self/fd/8", "/", true}, {"/x/../proc", "", "/", true}, {"/proc", "", "/", true}, {"/process", "", "/process", false},
	} {
		out := build(t, func(in *Input) { in.Container.WorkingDir, in.Image.WorkingDir = c.asked, c.image })
		if got := out.Spec.Process.Cwd; got != c.want || (len(out.Refusals) > 0) != c.refused {
			t.Errorf("cwd of %q, %q = %q, refusals %v, want %q", c.asked, c.image, got, out.Refusals, c.want)
		}
	}
}

// TestAnnotationsAndLabelsAreNoOrders: CVE-2024-3154, CVE-2023-6476, CVE-2026-53488.
func TestAnnotationsAndLabelsAreNoOrders(t *testing.T) {
	hostile := map[string]string{"org.systemd.property.ExecStart": "x", "run.oci.handler": "x", "io.kubernetes.cri-o.unified": "x", "sallyport/pod": "x"}
	plain, out := build(t, nil), build(t, func(in *Input) {
		in.Container.Annotations, in.Pod.Annotations, in.Container.Labels, in.Pod.Labels, in.Image.Labels = hostile, hostile, hostile, hostile, hostile
	})
	if string(plain.JSON) != string(out.JSON) {
		t.Errorf("annotations or labels changed the spec:\n%s\n%s", plain.JSON, out.JSON)
	}
}
