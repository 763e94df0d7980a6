package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"sallyport/policy/bundle"
	"sallyport/policy/containers"
)

// Where CRI-O keeps its policy (crio.conf.d(5): signature_policy, signature_policy_dir) and containers/image
// its registries.d.
const (
	crioPolicy     = "/etc/containers/policy.json"
	crioNamespaces = "/etc/crio/policies"
	crioRegistries = "/etc/containers/registries.d"
)

func policyImportCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "import", Short: "make a policy directory of another runtime's policy", Args: cobra.NoArgs, RunE: needsCommand}
	var from crio
	sub := &cobra.Command{
		Use:   "crio OUT",
		Short: "make a policy directory of CRI-O's, and list what could not be carried over",
		Long: "Keys are copied into the policy. A scope that cannot be carried over rejects its images, so that nothing is admitted\n" +
			"that CRI-O refused. Each difference is a line on standard output; with any, the exit code is 1.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return from.to(cmd, args[0]) },
	}
	sub.Flags().StringVar(&from.policy, "policy", crioPolicy, "signature_policy")
	sub.Flags().StringVar(&from.namespaces, "namespaces", crioNamespaces, "signature_policy_dir; it need not exist")
	sub.Flags().StringVar(&from.registries, "registries", crioRegistries, "registries.d; it need not exist")
	cmd.AddCommand(sub)
	return cmd
}

// crio is where the parts of CRI-O's policy lie, and what was found that does not carry over.
type crio struct {
	policy, namespaces, registries string
	notes                          []string
}

func (c *crio) note(format string, args ...any) {
	c.notes = append(c.notes, printable(fmt.Sprintf(format, args...)))
}

func (c *crio) to(cmd *cobra.Command, out string) error {
	if err := os.Mkdir(out, 0o755); err != nil {
		return fmt.Errorf("import policy: %w", err)
	}
	files := map[string][]byte{}
	if err := c.one(files, "node", c.policy, "imported from CRI-O"); err != nil {
		return err
	}
	entries, err := os.ReadDir(c.namespaces)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("import policy: %w", err)
	}
	for _, e := range entries {
		at := filepath.Join(c.namespaces, e.Name())
		ns, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || e.IsDir() {
			c.note("%s: CRI-O reads <namespace>.json alone; left out", at)
			continue
		}
		if err := c.one(files, filepath.Join("namespaces", ns), at, "imported from CRI-O"); err != nil {
			return err
		}
		c.note("namespace %s: CRI-O judges it by %s instead of %s; here an image must pass both", ns, at, c.policy)
	}
	c.lookasides()
	if err := writeFiles(under(out, files)); err != nil {
		return err
	}
	set, err := bundle.Load(out)
	if err != nil {
		return fmt.Errorf("import policy: what was made does not load: %w", err)
	}
	for _, p := range set.Problems() {
		c.note("%s", p)
	}
	for _, n := range c.notes {
		if _, err := fmt.Fprintln(cmd.OutOrStdout(), n); err != nil {
			return err
		}
	}
	if n := len(c.notes); n > 0 {
		return badAnswer{fmt.Errorf("import policy: %d differences; %s holds the rest", n, out)}
	}
	return nil
}

// crioDoc is a policy.json taken apart as far as the importer needs.
type crioDoc struct {
	Default    []json.RawMessage                       `json:"default"`
	Transports map[string]map[string][]json.RawMessage `json:"transports,omitempty"`
}

// one makes the bundle of one policy.json.
func (c *crio) one(files map[string][]byte, place, at, name string) error {
	text, err := os.ReadFile(at)
	if err != nil {
		return fmt.Errorf("import policy: %w", err)
	}
	var doc crioDoc
	if err := json.Unmarshal(text, &doc); err != nil {
		return badAnswer{fmt.Errorf("import policy %s: %w", at, err)}
	}
	reject := []json.RawMessage{json.RawMessage(`{"type":"reject"}`)}
	kept := crioDoc{Default: doc.Default, Transports: map[string]map[string][]json.RawMessage{"docker": {}}}
	if err := carries(crioDoc{Default: doc.Default}); err != nil {
		c.note("%s: default: %v; rejects instead", at, err)
		kept.Default = reject
	}
	if strings.Contains(compact(kept.Default), `"insecureAcceptAnything"`) {
		c.note("%s: default: it admits every image that no scope names, signed or not; carried over as it is", at)
	}
	for _, t := range slices.Sorted(maps.Keys(doc.Transports)) {
		if t != "docker" {
			c.note("%s: transports.%s: no pod's image comes that way; left out", at, t)
			continue
		}
		for _, s := range slices.Sorted(maps.Keys(doc.Transports[t])) {
			list := doc.Transports[t][s]
			if err := carries(crioDoc{Default: reject, Transports: map[string]map[string][]json.RawMessage{t: {s: list}}}); err != nil {
				c.note("%s: %v; rejects instead", at, err)
				if list = reject; strings.Contains(err.Error(), "never matches") {
					continue
				}
			}
			kept.Transports[t][s] = list
		}
	}
	made, err := json.Marshal(kept)
	if err == nil {
		made, err = containers.Inline(made, os.ReadFile)
	}
	if err != nil {
		return fmt.Errorf("import policy %s: %w", at, err)
	}
	files[filepath.ToSlash(filepath.Join(place, "policy.json"))] = made
	files[filepath.ToSlash(filepath.Join(place, "bundle.yaml"))] = fmt.Appendf(nil, "name: %s\nrevision: 1\n", name)
	return nil
}

// carries says why a policy would not be read here.
func carries(doc crioDoc) error {
	text, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	if text, err = containers.Inline(text, os.ReadFile); err != nil {
		return err
	}
	_, err = containers.New(text, os.TempDir())
	return err
}

func compact(list []json.RawMessage) string {
	b, _ := json.Marshal(list) // JSON that was read
	return string(b)
}

// lookasides notes what registries.d says that is done otherwise here: signatures are read from the
// registry alone, and always.
func (c *crio) lookasides() {
	found, _ := filepath.Glob(filepath.Join(c.registries, "*.yaml"))
	for _, at := range found {
		text, err := os.ReadFile(at)
		if err != nil {
			c.note("%s: %v", at, err)
			continue
		}
		type place struct {
			Lookaside string `yaml:"lookaside"`
			Sigstore  string `yaml:"sigstore"` // its older name
		}
		var doc struct {
			Default place            `yaml:"default-docker"`
			Docker  map[string]place `yaml:"docker"`
		}
		if err := yaml.Unmarshal(text, &doc); err != nil {
			c.note("%s: %v", at, err)
			continue
		}
		all := map[string]place{"default-docker": doc.Default}
		for s, p := range doc.Docker {
			all["docker."+s] = p
		}
		for _, s := range slices.Sorted(maps.Keys(all)) {
			if where := all[s].Lookaside + all[s].Sigstore; where != "" {
				c.note("%s: %s: signatures in the lookaside %s are not read; put them into the registry (cosign, or skopeo with use-sigstore-attachments)", at, s, where)
			}
		}
	}
}
