package bundle

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/test/sigkit"
)

// signed is an image with evidence.
func signed(t testing.TB, name string, bundles ...[]byte) (policy.Image, policy.Evidence) {
	t.Helper()
	n, err := ref.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	d := ref.DigestOf(manifest1)
	ev := policy.Evidence{TopManifest: manifest1, InstanceManifest: manifest1, Complete: true, Fetched: time.Now()}
	for _, b := range bundles {
		ev.Bundles = append(ev.Bundles, policy.Bundle{Subject: d, ArtifactType: sigkit.BundleType, JSON: b})
	}
	return policy.Image{Name: n, Top: d, Instance: d, ID: ref.DigestOf([]byte("config")), OS: "linux", Arch: "amd64"}, ev
}

var manifest1 = []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`)

func kit(t testing.TB) *sigkit.Kit {
	t.Helper()
	k, err := sigkit.New()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t testing.TB, k *sigkit.Kit, who string) []byte {
	t.Helper()
	b, err := k.SignKeyless(ref.DigestOf(manifest1), sigkit.Identity{SAN: who, Issuer: issuer})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// effective judges as the gate does: the node's layer and the namespace's, each alone.
func effective(s *Set, ns string, img policy.Image, ev policy.Evidence) policy.Decision {
	now := time.Now()
	var verdicts []policy.Verdict
	verdicts = append(verdicts, s.Node().JudgeImage(context.Background(), img, ev, now))
	if l, hit := s.For(ns); hit != nil {
		verdicts = append(verdicts, policy.Refusal(hit.Layer, hit.Rule, hit.Msg))
	} else if l != nil {
		verdicts = append(verdicts, l.JudgeImage(context.Background(), img, ev, now))
	}
	return policy.Decide(policy.Act{}, verdicts...)
}

func requirement(glob string, authorities ...string) string {
	return "policies:\n- name: release\n  images: [{glob: \"" + glob + "\"}]\n  authorities:\n  - " + strings.Join(authorities, "\n  - ") + "\n"
}

func by(who string) string {
	return "keyless: {identities: [{issuer: " + issuer + ", subject: \"" + who + "\"}]}"
}

func byKey(file string) string { return "key: {file: " + file + "}" }

// Real signatures, real roots, from files to decision.
func TestJudgeRealSignatures(t *testing.T) {
	k, foreign := kit(t), kit(t)
	key, err := sigkit.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	keySig, err := sigkit.SignKey(key, ref.DigestOf(manifest1))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"node/bundle.yaml":       "name: node\n",
		"node/requirements.yaml": requirement("registry.example/**", by("release@acme.example"), byKey("ci.pub")),
		"node/trusted_root.json": string(k.TrustedRoot()),
		"node/ci.pub":            string(key.PEM()),
		// The namespace wants the same identity, and trusts another root.
		"namespaces/pay/bundle.yaml":       "name: pay\n",
		"namespaces/pay/requirements.yaml": requirement("registry.example/**", by("release@acme.example")),
		"namespaces/pay/trusted_root.json": string(foreign.TrustedRoot()),
	}
	s := load(t, files)
	good, alien := sign(t, k, "release@acme.example"), sign(t, foreign, "release@acme.example")
	tests := []struct {
		name, namespace, image string
		bundles                [][]byte
		layer, rule, msg       string
	}{
		{"signed", "dev", "registry.example/app:v1", [][]byte{good}, "", "", ""},
		{"signed with the key", "dev", "registry.example/app:v1", [][]byte{keySig}, "", "", ""},
		{"unsigned", "dev", "registry.example/app:v1", nil, "node", "release", "no signature by release@acme.example and no signature by key " + key.ID()[:12] + "; found none"},
		{"signed by another", "dev", "registry.example/app:v1", [][]byte{sign(t, k, "mallory@evil.example")}, "node", "release", "found 1, by mallory@evil.example"},
		{"signed under a foreign root", "dev", "registry.example/app:v1", [][]byte{alien}, "node", "release", "found 1 that prove nothing"},
		{"another repository", "dev", "docker.io/library/nginx", [][]byte{good}, "node", "no-rule", "docker.io/library/nginx"},
		{"both roots", "pay", "registry.example/app:v1", [][]byte{good, alien}, "", "", ""},
		{"the node's root alone", "pay", "registry.example/app:v1", [][]byte{good}, "namespace pay", "release", "no signature by release@acme.example"},
		{"the namespace's root alone", "pay", "registry.example/app:v1", [][]byte{alien}, "node", "release", "no signature by release@acme.example"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			img, ev := signed(t, tt.image, tt.bundles...)
			d := effective(s, tt.namespace, img, ev)
			hits := d.Hits()
			if tt.rule == "" {
				if !d.Allowed() {
					t.Errorf("denied: %v", hits)
				}
				return
			}
			if d.Allowed() || len(hits) != 1 || hits[0].Layer != tt.layer || hits[0].Rule != tt.rule || !strings.Contains(hits[0].Msg, tt.msg) {
				t.Errorf("decision = %v %v, want a denial by %s/%s with %q", d.Allowed(), hits, tt.layer, tt.rule, tt.msg)
			}
		})
	}
}

// For any node policy N and bundle B, what N and B admit together is a subset of what N admits; and
// what N says does not depend on B, though B trusts roots and keys of its own.
func TestClosedWorlds(t *testing.T) {
	kits := []*sigkit.Kit{kit(t), kit(t)}
	who := []string{"a@acme.example", "b@acme.example"}
	var keys []*sigkit.Key
	var sigs [][]byte
	for _, k := range kits {
		for _, w := range who {
			sigs = append(sigs, sign(t, k, w))
		}
	}
	for range 2 {
		key, err := sigkit.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		sig, err := sigkit.SignKey(key, ref.DigestOf(manifest1))
		if err != nil {
			t.Fatal(err)
		}
		keys, sigs = append(keys, key), append(sigs, sig)
	}
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 1))
	random := func(files map[string]string, dir string) {
		files[dir+"/bundle.yaml"] = "name: x\nmode: " + []string{"enforce", "warn"}[rnd.IntN(4)/3] + "\n"
		files[dir+"/trusted_root.json"] = string(kits[rnd.IntN(2)].TrustedRoot())
		var auths []string
		for range 1 + rnd.IntN(2) {
			if rnd.IntN(2) == 0 {
				auths = append(auths, by(who[rnd.IntN(2)]))
			} else {
				auths = append(auths, byKey("key.pub"))
			}
		}
		files[dir+"/key.pub"] = string(keys[rnd.IntN(2)].PEM())
		glob := []string{"**", "registry.example/**", "registry.example/app", "other.example/**"}[rnd.IntN(4)]
		files[dir+"/requirements.yaml"] = requirement(glob, auths...)
		if rnd.IntN(8) == 0 {
			files[dir+"/requirements.yaml"] = requirement(glob, "static: {action: pass}")
		}
	}
	both := 0
	for i := range 60 {
		files := map[string]string{}
		random(files, "node")
		alone := load(t, files)
		random(files, "namespaces/pay")
		s := load(t, files)
		var some [][]byte
		for _, sig := range sigs {
			if rnd.IntN(2) == 0 {
				some = append(some, sig)
			}
		}
		img, ev := signed(t, "registry.example/app", some...)
		before := effective(alone, "pay", img, ev)
		after := effective(s, "pay", img, ev)
		if after.Allowed() && !before.Allowed() {
			t.Fatalf("seed %d, case %d: the bundle loosened the node policy: %v", seed, i, before.Hits())
		}
		if got, want := after.Verdicts()[0], before.Verdicts()[0]; got.Allowed() != want.Allowed() || fmt.Sprint(got.Hits()) != fmt.Sprint(want.Hits()) || len(got.Claims()) != len(want.Claims()) {
			t.Fatalf("seed %d, case %d: the node's verdict changed with a namespace's bundle: %v, was %v", seed, i, got.Hits(), want.Hits())
		}
		if after.Allowed() {
			both++
		}
	}
	if both == 0 {
		t.Error("no case was admitted: the test tests nothing")
	}
}

// A namespace's Rego has packages and data of its own: redefining a helper or the data of a node rule
// changes nothing for the node.
func TestRegoClosedWorlds(t *testing.T) {
	rule := "package sallyport.run\n\nimport data.lib.names\n\ndeny contains {\"rule\": \"names\", \"msg\": \"x\"} if not names.good(input.container.name)\n"
	helper := "package lib.names\n\ngood(name) if name in data.good\n"
	files := with(node, "node/bundle.yaml", "name: node\nrego: [sallyport.run]\n",
		"node/rego/run.rego", rule, "node/rego/names.rego", helper, "node/rego/data.json", `{"good": ["app"]}`,
		"namespaces/pay/bundle.yaml", "name: pay\nrego: [sallyport.run]\n", "namespaces/pay/requirements.yaml", static("**", "pass"),
		"namespaces/pay/rego/run.rego", rule, "namespaces/pay/rego/names.rego", "package lib.names\n\ngood(name) if name != \"\"\n", "namespaces/pay/rego/data.json", `{"good": ["evil"]}`)
	s := load(t, files)
	l, _ := s.For("pay")
	for name, want := range map[string]bool{"app": true, "evil": false} {
		act := policy.Act{Verb: policy.VerbRun, Now: time.Now(), Namespace: "pay", Container: &policy.Container{Name: name}}
		n, ns := s.Node().JudgeAct(context.Background(), act, nil), l.JudgeAct(context.Background(), act, nil)
		if n.Allowed() != want || !ns.Allowed() || policy.Decide(act, n, ns).Allowed() != want {
			t.Errorf("container %q: node %v, namespace %v, want node %v and the same together", name, n.Hits(), ns.Hits(), want)
		}
	}
}

// The starter policy loads, and admits nothing that Kubernetes' release identity has not signed.
func TestStarterPolicy(t *testing.T) {
	s, err := Load("../../packaging/policy")
	if err != nil {
		t.Fatal(err)
	}
	if p := s.Problems(); len(p) != 0 {
		t.Errorf("Problems() = %v", p)
	}
	img, ev := signed(t, "registry.k8s.io/kube-apiserver:v1.37.0", sign(t, kit(t), "krel-trust@k8s-releng-prod.iam.gserviceaccount.com"))
	d := effective(s, "kube-system", img, ev)
	if hits := d.Hits(); d.Allowed() || len(hits) != 1 || !strings.Contains(hits[0].Rule, "registry.k8s.io") {
		t.Errorf("unsigned image of registry.k8s.io: %v, want a denial by its scope", hits)
	}
	for _, name := range []string{"docker.io/library/nginx", "registry.k8s.io.evil.example/pause", "quay.io/coreos/etcd"} {
		img, ev := signed(t, name)
		if d := effective(s, "default", img, ev); d.Allowed() || d.Hits()[0].Rule != "no-rule" {
			t.Errorf("%s: %v, want a denial by no-rule", name, d.Hits())
		}
	}
}
