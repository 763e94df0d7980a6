package e2e

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport/audit"
	"sallyport/policy/bundle/layout"
	"sallyport/test/node"
	"sallyport/test/roottest"
	"sallyport/test/sigkit"
)

// signedWorld is a node whose policy must be signed: by ops for the node, by team for namespace pay.
type signedWorld struct {
	*world
	root, ops, team *sigkit.Key
}

func startSigned(t *testing.T) *signedWorld {
	t.Helper()
	roottest.Need(t)
	s := &signedWorld{world: prepare(t)}
	for _, k := range []**sigkit.Key{&s.root, &s.ops, &s.team} {
		var err error
		if *k, err = sigkit.NewKey(); err != nil {
			t.Fatal(err)
		}
	}
	o := s.options(nil, "[policy]\nsource = \"signed\"\n")
	o.Policy = nil
	n, err := node.New(s.ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	s.Node = n
	t.Cleanup(func() {
		s.clear()
		if err := n.StopDaemon(); err != nil {
			t.Errorf("stop the daemon: %v; its log ends:\n%s", err, n.LogTail(5))
		}
	})
	return s
}

func (s *signedWorld) files(f map[string]string, err error) map[string]string {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
	return f
}

func (s *signedWorld) trust() map[string]string {
	return s.files(sigkit.PolicyRoot{Version: 1, Root: s.root, Node: s.ops, Namespaces: map[string]*sigkit.Key{"pay": s.team}}.Files())
}

// of are the files that a bundle directory of the place sub would hold, with the image rule.
func (s *signedWorld) of(sub string, rev int, repo string) map[string]string {
	return map[string]string{
		"bundle.yaml": fmt.Sprintf("name: %s\nrevision: %d\n", strings.ReplaceAll(sub, "/", "-"), rev),
		"policy.json": fmt.Sprintf(`{"default": [{"type": "reject"}], "transports": {"docker": {"%s/%s": [{"type": "insecureAcceptAnything"}]}}}`, s.host, repo),
	}
}

func (s *signedWorld) nodePolicy(rev int, by ...*sigkit.Key) map[string]string {
	return s.files(sigkit.SignedPolicy("node", layout.Config{Node: true, Revision: uint64(rev)}, s.of("node", rev, "open"), by...))
}

// pay admits only open/paid.
func (s *signedWorld) pay(rev int, by ...*sigkit.Key) map[string]string {
	return s.files(sigkit.SignedPolicy("namespaces/pay", layout.Config{Namespaces: []string{"pay"}, Revision: uint64(rev)}, s.of("pay", rev, "open/paid"), by...))
}

func (s *signedWorld) install(parts ...map[string]string) {
	s.t.Helper()
	all := map[string]string{}
	for _, p := range parts {
		maps.Copy(all, p)
	}
	if err := s.SetPolicy(all); err != nil {
		s.t.Fatal(err)
	}
}

// Signed policy end to end: what root.json's signers signed judges pulls and pods, also after a restart;
// plain files, strangers' policies and older ones do not, and say so in denial, Status and audit log.
func TestSignedPolicy(t *testing.T) {
	s := startSigned(t)
	app, paid := s.push("open/app", v1.Config{}), s.push("open/paid", v1.Config{})
	plain := map[string]string{}
	for name, text := range s.of("node", 1, "open") {
		plain["node/"+name] = text
	}
	pull := func(image, namespace string) error {
		_, err := s.Pull(s.ctx, image, s.Pod(namespace, "x"))
		return err
	}
	for _, tt := range []struct {
		name    string
		files   []map[string]string
		restart bool
		rule    string // that denies a pull for the default namespace; "": admitted
		payRule string // that denies open/app for pay; open/paid is admitted unless payRule is of the policy itself
		problem string // in PolicyEnforced; "": it is true
	}{
		{"no root", nil, false, "policy-root", "policy-root", "root.json"},
		{"plain files", []map[string]string{s.trust(), plain}, false, "policy-unsigned", "policy-unsigned", "plain directory"},
		{"a stranger's", []map[string]string{s.trust(), s.nodePolicy(2, s.team)}, false, "policy-signature", "policy-signature", "signed by nobody"},
		{"signed", []map[string]string{s.trust(), s.nodePolicy(2, s.ops), s.pay(2, s.team)}, false, "", "no-rule", ""},
		{"an older one", []map[string]string{s.trust(), s.nodePolicy(1, s.ops), s.pay(2, s.team)}, false, "", "no-rule", "older than 2"},
		{"everything gone, and a restart", nil, true, "", "no-rule", "root.json"},
		{"pay's replaced by a stranger, and a restart", []map[string]string{s.trust(), s.nodePolicy(2, s.ops), s.pay(3, s.ops)}, true, "", "no-rule", "signed by nobody"},
		{"newer ones", []map[string]string{s.trust(), s.nodePolicy(3, s.ops), s.pay(3, s.team)}, false, "", "no-rule", ""},
	} {
		s.install(tt.files...)
		if tt.restart {
			if err := s.StopDaemon(); err != nil {
				t.Fatal(err)
			}
			if err := s.StartDaemon(s.ctx); err != nil {
				t.Fatal(err)
			}
		} else if err := s.Reload(); err != nil {
			t.Fatal(err)
		}
		err := pull(app, "default")
		if tt.rule == "" && err != nil || tt.rule != "" && (status.Code(err) != codes.Unknown || !strings.Contains(err.Error(), `rule "`+tt.rule+`"`)) {
			t.Errorf("%s: pull = %v, want rule %q", tt.name, err, tt.rule)
		}
		if err := pull(app, "pay"); err == nil || !strings.Contains(err.Error(), `rule "`+tt.payRule) {
			t.Errorf("%s: pull for pay = %v, want rule %q", tt.name, err, tt.payRule)
		}
		if err := pull(paid, "pay"); (err == nil) != (tt.rule == "") {
			t.Errorf("%s: pull of what pay's policy admits = %v", tt.name, err)
		}
		c := s.condition("PolicyEnforced")
		if c.Status != (tt.problem == "") || !strings.Contains(c.Message, tt.problem) || c.Status && !strings.Contains(c.Message, "source signed") {
			t.Errorf("%s: PolicyEnforced = %v, want %q", tt.name, c, tt.problem)
		}
	}
	s.running(app, "runs", "/bin/sleep", "1000")
	refused := map[string]bool{}
	if err := audit.Read(s.Path("root/audit"), func(r audit.Record) error {
		if r.Event.Type == "policy" && r.Event.Outcome == "refused" && len(r.Event.Hits) > 0 {
			refused[r.Event.Hits[0].Rule] = true
		}
		if r.Event.Source != "" && r.Event.Source != "signed" {
			t.Errorf("record %d says source %q", r.Seq, r.Event.Source)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	for _, rule := range []string{"policy-root", "policy-unsigned", "policy-signature", "policy-rollback"} {
		if !refused[rule] {
			t.Errorf("no record of a refusal by %s: %v", rule, refused)
		}
	}
}
