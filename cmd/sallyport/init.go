package main

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport/image/ref"
	"sallyport/internal/admin/wire"
	"sallyport/internal/config"
	"sallyport/policy"
	"sallyport/policy/bundle"
	"sallyport/policy/sigstore"
)

func policyInitCommand() *cobra.Command {
	var l live
	var fromNode bool
	var roots string
	cmd := &cobra.Command{
		Use: "init --from-node DIR", Short: "make a policy directory of what is stored and runs on this node", Args: cobra.ExactArgs(1),
		Long: "DIR is made. For each repository of a stored image it gets one rule that asks for the signers whom the stored\n" +
			"evidence names. Nobody has verified that evidence: read the result before you install it.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if !fromNode {
				return errors.New("make policy: say from what; --from-node is all there is")
			}
			n := &node{repos: map[string]*repository{}}
			if err := n.ask(l); err != nil {
				return err
			}
			files, err := n.files(roots)
			if err != nil {
				return err
			}
			return writePolicy(cmd, args[0], files)
		},
	}
	cmd.Flags().BoolVar(&fromNode, "from-node", false, "ask the running daemon what it has")
	cmd.Flags().StringVar(&l.socket, "socket", config.Default().AdminSocket(), "the daemon's admin socket")
	cmd.Flags().StringVar(&roots, "trusted-root", filepath.Join(policyDir, "node", "trusted_root.json"), "Sigstore roots under which keyless signers are to be believed")
	return cmd
}

// node is what was found on this one, by repository.
type node struct {
	repos map[string]*repository
	notes []string // of images that could not be read
}

// repository is what the evidence of its images says. Nothing of it is verified.
type repository struct {
	images  map[string][]string    // names and digests -> namespaces where they run
	signers map[sigstore.Said]bool // of signatures, keyless
	other   map[string]bool        // what makes no rule, one line each
}

// ask fetches the list of images, each one's evidence, and what runs.
func (n *node) ask(l live) error {
	all, err := ask[wire.StoredImages](l, wire.CallStored, wire.Stored{}, patience)
	if err != nil {
		return err
	}
	ps, err := ask[wire.Ps](l, wire.CallPs, wire.Empty{}, patience)
	if err != nil {
		return err
	}
	runs := map[string][]string{}
	for _, c := range ps.Containers {
		if c.State == "running" && !slices.Contains(runs[c.Instance], c.Namespace) {
			runs[c.Instance] = append(runs[c.Instance], c.Namespace)
		}
	}
	for _, id := range all.IDs {
		found, err := ask[wire.StoredImages](l, wire.CallStored, wire.Stored{ID: id}, time.Minute)
		var refused *wire.Refused
		if errors.As(err, &refused) {
			n.notes = append(n.notes, fmt.Sprintf("image %s was left out: %s", id, refused.Msg))
			continue
		}
		if err != nil {
			return err
		}
		for _, im := range found.Images {
			n.add(im, runs[im.Instance])
		}
	}
	return nil
}

func (n *node) add(im wire.StoredImage, runs []string) {
	r := n.repos[im.Repository]
	if r == nil {
		r = &repository{images: map[string][]string{}, signers: map[sigstore.Said]bool{}, other: map[string]bool{}}
		n.repos[im.Repository] = r
	}
	name := im.Name
	if !strings.Contains(name, "@") {
		name += " (" + im.Instance + ")"
	}
	r.images[name] = runs
	for _, b := range im.Bundles {
		said, err := sigstore.Read(policy.Bundle{ArtifactType: b.ArtifactType, JSON: b.JSON})
		switch {
		case err != nil:
			r.other[err.Error()] = true
		case said.PredicateType != "":
			r.other[fmt.Sprintf("attestation %s by %s; ask for it under attestations", said.PredicateType, whom(said))] = true
		case said.Issuer == "":
			r.other["signature by "+whom(said)+"; put its public key beside this file and add an authority with key.file"] = true
		default:
			r.signers[said] = true
		}
	}
	if im.Simple > 0 {
		r.other[fmt.Sprintf("%d signatures in an older form; policy.json can ask for them", im.Simple)] = true
	}
	if !im.Complete {
		r.other["more evidence, which the daemon could not fetch or send"] = true
	}
}

// whom names a signer in a comment.
func whom(s sigstore.Said) string {
	if s.Issuer != "" {
		return s.Subject + " of " + s.Issuer
	}
	if b, err := base64.StdEncoding.DecodeString(s.KeyHint); err == nil && len(b) == 32 {
		return "key " + hex.EncodeToString(b)
	}
	return fmt.Sprintf("key %q", s.KeyHint)
}

const foundOnly = `# Found on this node, not verified: whoever can push to a registry can write evidence. Strike out every
# signer whom you do not know to build that image, then raise the revision in bundle.yaml and install it.
# Where one rule names several signers, each of them alone is enough. Attestations are not asked for.
`

// files are those of the directory, by their path in it.
func (n *node) files(roots string) (map[string][]byte, error) {
	var rules, denied strings.Builder
	names := map[string]bool{}
	for _, at := range slices.Sorted(maps.Keys(n.repos)) {
		r := n.repos[at]
		to := &rules
		if len(r.signers) == 0 {
			to = &denied
			comment(to, "", "%s: denied, since no keyless signature was found", at)
		} else {
			fmt.Fprintf(to, "- name: %s\n", ruleFor(at, names))
		}
		for _, image := range slices.Sorted(maps.Keys(r.images)) {
			if runs := r.images[image]; len(runs) > 0 {
				image += ", runs in " + strings.Join(slices.Sorted(slices.Values(runs)), ", ")
			}
			comment(to, "  ", "%s", image)
		}
		for _, o := range slices.Sorted(maps.Keys(r.other)) {
			comment(to, "  ", "found: %s", o)
		}
		if len(r.signers) > 0 {
			r.rule(to, at)
		}
	}
	for _, note := range n.notes {
		comment(&denied, "", "%s", note)
	}
	name := "name: made from a node\nrevision: 1\n"
	if rules.Len() == 0 {
		return map[string][]byte{"node/bundle.yaml": []byte(name + denied.String()), "node/policy.json": []byte("{\"default\": [{\"type\": \"reject\"}]}\n")}, nil
	}
	root, err := os.ReadFile(roots)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("make policy: %w; name the roots of your signers with --trusted-root (for the public Sigstore: cosign trusted-root create --with-default-services --out trusted_root.json)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("make policy: %w", err)
	}
	return map[string][]byte{"node/bundle.yaml": []byte(name), "node/trusted_root.json": root,
		"node/requirements.yaml": []byte(foundOnly + denied.String() + "policies:\n" + rules.String())}, nil
}

// rule writes what follows a rule's name.
func (r *repository) rule(b *strings.Builder, repo string) {
	fmt.Fprintf(b, "  images:\n  - glob: %s\n  authorities:\n", quoted(repo))
	signers := slices.SortedFunc(maps.Keys(r.signers), func(a, b sigstore.Said) int {
		return cmp.Or(cmp.Compare(a.Issuer, b.Issuer), cmp.Compare(a.Subject, b.Subject))
	})
	for i, s := range signers {
		fmt.Fprintf(b, "  - name: found-%d # not verified\n    keyless:\n      identities:\n      - issuer: %s\n        subject: %s\n", i+1, quoted(s.Issuer), quoted(s.Subject))
	}
}

// quoted is a YAML scalar: JSON's strings are.
func quoted(s string) string {
	b, _ := json.Marshal(s) // a string
	return string(b)
}

// comment writes one line; what strangers chose cannot end it.
func comment(b *strings.Builder, indent, format string, args ...any) {
	fmt.Fprintf(b, "%s# %s\n", indent, printable(fmt.Sprintf(format, args...)))
}

// ruleFor is a name for the rule about a repository, which no other rule has.
func ruleFor(repo string, taken map[string]bool) string {
	name := strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '-'
	}, repo), ".-")
	if len(name) > 50 || taken[name] {
		name = strings.Trim(name[:min(len(name), 50)], ".-") + "-" + ref.DigestOf([]byte(repo)).Hex()[:12]
	}
	taken[name] = true
	return name
}

// writePolicy makes the directory and reads it as the daemon would.
func writePolicy(cmd *cobra.Command, dir string, files map[string][]byte) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("make policy: %w", err)
	}
	if err := writeFiles(under(dir, files)); err != nil {
		return fmt.Errorf("make policy: %w", err)
	}
	return readPolicy(cmd, "make policy", bundle.Options{Root: dir})
}
