package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What sign puts beside the file is what the daemon looks for; what is no override is not signed.
func TestOverrideCommands(t *testing.T) {
	dir := t.TempDir()
	key, _ := keyFile(t, "pkcs8")
	text := fmt.Sprintf(`{"schema": "sallyport.override/v1", "cluster": "prod-1", "nodes": ["*"], "namespace": "pay",
 "digest": "sha256:%s", "verbs": ["run"], "rules": ["release-key"], "ticket": "INC-4711", "reason": "the signing service is down",
 "notBefore": %q, "notAfter": %q, "maxUses": 3}`, strings.Repeat("ab", 32), stamp(time.Now()), stamp(time.Now().Add(time.Hour)))
	good, bad := filepath.Join(dir, "inc.json"), filepath.Join(dir, "bad.json")
	os.WriteFile(good, []byte(text), 0o644)
	os.WriteFile(bad, []byte(strings.Replace(text, `"run"`, `"exec"`, 1)), 0o644)
	for _, tt := range []struct {
		args   []string
		code   int
		out    string
		errOut string
	}{
		{[]string{"show", good}, 0, "at most       3 times on each node", ""},
		{[]string{"show", bad}, 1, "", `verbs: "exec"`},
		{[]string{"sign", "--key", key, good}, 0, "", ""},
		{[]string{"sign", "--key", key, bad}, 1, "", `verbs: "exec"`},
		{[]string{"sign", good}, 2, "", "key"},
		{[]string{"show", dir + "/none"}, 2, "", "no such file"},
	} {
		code, out, errOut := typed(append([]string{"policy", "override"}, tt.args...)...)
		if code != tt.code || !strings.Contains(out, tt.out) || !strings.Contains(errOut, tt.errOut) {
			t.Errorf("%q = %d, %q, %q", tt.args, code, out, errOut)
		}
	}
	for pattern, want := range map[string]int{"inc.*.sigstore.json": 1, "bad.*.sigstore.json": 0} {
		if found, _ := filepath.Glob(filepath.Join(dir, pattern)); len(found) != want {
			t.Errorf("%s: %d files, want %d", pattern, len(found), want)
		}
	}
}
