// Command selftestgen makes what "sallyport selftest" pulls, once: four images without a program as OCI
// layouts with their signatures, and the public keys in policy/bundle/selftest/requirements.yaml. The
// private keys are never written and end with this program. Run it in the top folder of the tree:
//
//	go run ./test/selftestgen
package main

import (
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/test/sigkit"
)

func main() {
	if err := generate("internal/selftest/probes", "policy/bundle/selftest/requirements.yaml"); err != nil {
		log.Fatal(err)
	}
}

// generate replaces the layouts below dir and the rules.
func generate(dir, rules string) error {
	log.SetOutput(io.Discard) // the registry's
	defer log.SetOutput(os.Stderr)
	good, err := sigkit.NewKey()
	if err != nil {
		return err
	}
	old, err := sigkit.NewKey()
	if err != nil {
		return err
	}
	registry := sigkit.NewRegistry(sigkit.Referrers)
	defer registry.Close()
	digests := map[string]ref.Digest{}
	at := func(name string) string { return sigkit.Host(registry) + "/" + name }
	for _, name := range []string{"signed", "unsigned", "tampered", "expired"} {
		if digests[name], err = push(at(name)+":"+name, name); err != nil {
			return err
		}
	}
	for _, s := range []struct {
		name, over string
		key        *sigkit.Key
	}{{"signed", "signed", good}, {"tampered", "signed", good}, {"expired", "expired", old}} {
		b, err := sigkit.SignKey(s.key, digests[s.over])
		if err == nil {
			err = sigkit.Attach(at(s.name), digests[s.name], b, sigkit.Referrers)
		}
		if err != nil {
			return fmt.Errorf("sign %s: %w", s.name, err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	for name := range digests {
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		if err := sigkit.Save(at(name)+":"+name, to); err != nil {
			return fmt.Errorf("save %s: %w", name, err)
		}
	}
	text := fmt.Sprintf(requirements, policy.ProbeRepository, indent(good), indent(old), "2020-01-01T00:00:00Z")
	return os.WriteFile(rules, []byte(text), 0o644)
}

// push makes an image for each platform that we are built for: users, groups and empty folders, no program.
func push(at, name string) (ref.Digest, error) {
	var images []v1.Image
	for _, arch := range []string{"amd64", "arm64"} {
		img, err := sigkit.Image(sigkit.ImageOptions{Config: v1.Config{Labels: map[string]string{"sallyport.selftest": name}}, NoBusybox: true,
			Platform: v1.Platform{OS: "linux", Architecture: arch}})
		if err != nil {
			return ref.Digest{}, err
		}
		images = append(images, img)
	}
	index, err := sigkit.Index(images...)
	if err != nil {
		return ref.Digest{}, err
	}
	return sigkit.Push(at, index)
}

func indent(k *sigkit.Key) string {
	return strings.ReplaceAll(strings.TrimSpace(string(k.PEM())), "\n", "\n        ")
}

const requirements = `# Made by test/selftestgen; the private keys are gone.
policies:
- name: selftest-signed
  images:
  - glob: %s
  authorities:
  - name: good
    rekor: none
    timestamp: none
    key:
      data: |
        %s
  - name: old
    rekor: none
    timestamp: none
    key:
      data: |
        %s
      notAfter: %s
`
