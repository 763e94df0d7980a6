package bundle

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"sallyport/policy"
	"sallyport/policy/containers"
	"sallyport/policy/sigstore"
)

// rootsDir holds further trusted roots, each for the authorities that name it.
const rootsDir = "trusted_roots/"

var rootName = regexp.MustCompile(`\A[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?\z`)

// rootFile is where the trusted root of that name stands; "" is the one that needs no name.
func rootFile(name string) string {
	if name == "" {
		return "trusted_root.json"
	}
	return rootsDir + name + ".json"
}

// roots lists the names of the trusted roots in the bundle, "" first.
func (f files) roots() (names []string) {
	if f[rootFile("")] != nil {
		names = append(names, "")
	}
	for _, file := range slices.Sorted(maps.Keys(f)) {
		if name, ok := strings.CutPrefix(file, rootsDir); ok && strings.HasSuffix(name, ".json") {
			names = append(names, strings.TrimSuffix(name, ".json"))
		}
	}
	return names
}

// verifier makes what turns evidence into claims under the roots of those names. reqs may be nil.
func verifier(f files, names []string, reqs *policy.Requirements) (policy.Verifier, error) {
	o := sigstore.Options{Names: names}
	for _, name := range names {
		o.Roots = append(o.Roots, f[rootFile(name)])
	}
	if reqs != nil {
		o.Keys = reqs.Keys()
		o.AcceptUnlogged, o.AcceptWithoutSCT = reqs.Lowered()
	}
	return sigstore.New(o)
}

// containersRule compiles policy.json. Key files are taken from the bundle; scratch is where signatures
// are laid out while they are judged.
func containersRule(text []byte, read func(string) ([]byte, error), scratch string) (policy.ImageRule, error) {
	if scratch == "" {
		scratch = os.TempDir()
	}
	inlined, err := containers.Inline(text, read)
	if err != nil {
		return nil, err
	}
	rule, err := containers.New(inlined, scratch)
	if err != nil {
		return nil, err
	}
	ids, err := keysIn(inlined)
	return keyed{rule, ids}, err
}
