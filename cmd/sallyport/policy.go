package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/policy"
	"sallyport/policy/bundle"
	"sallyport/policy/trial"
)

func policyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "check policy before it is installed, sign it", Args: cobra.NoArgs, RunE: needsCommand}
	cmd.AddCommand(policyCheckCommand(), policyTestCommand(), policyDiffCommand(), policyBuildCommand(), policySignCommand(), policyVerifyCommand(), policyStatusCommand(), policyPushCommand(), policyImportCommand(), policyInitCommand(), policyOverrideCommand())
	return cmd
}

func policyCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check [DIR]",
		Short: "read and compile a policy directory as the daemon would",
		Long:  "DIR holds node/ and namespaces/<name>/, as " + policyDir + " does, which is read if no DIR is given.",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := policyDir
			if len(args) == 1 {
				dir = args[0]
			}
			return checkPolicy(cmd, dir)
		},
	}
}

func checkPolicy(cmd *cobra.Command, dir string) error {
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("check policy: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "bundle.yaml")); err == nil {
		return fmt.Errorf("check policy: %s is one bundle; give the directory that holds node/ and namespaces/", dir)
	}
	return readPolicy(cmd, "check policy", bundle.Options{Root: dir, Try: trial.Own})
}

// readPolicy reads a policy directory and describes what it found; what names the command in errors.
func readPolicy(cmd *cobra.Command, what string, o bundle.Options) error {
	set, err := bundle.Read(o)
	if err != nil {
		return badAnswer{fmt.Errorf("%s: %w", what, err)}
	}
	if set.Node() == nil {
		return badAnswer{fmt.Errorf("%s: %s: there is no node policy; everything would be denied", what, filepath.Join(o.Root, "node"))}
	}
	var b strings.Builder
	if r := set.Root(); r != nil {
		fmt.Fprintf(&b, "root: version %d, until %s\n", r.Version(), stamp(r.Expires()))
	}
	describe(&b, set.Node())
	for _, name := range set.Namespaces() {
		if l, _ := set.For(name); l != nil {
			describe(&b, l)
		}
	}
	fmt.Fprintf(&b, "policy hash: %s\n", set.Hash())
	if _, err := cmd.OutOrStdout().Write([]byte(b.String())); err != nil {
		return err
	}
	problems := set.Problems()
	for _, p := range problems[:max(len(problems)-1, 0)] {
		fmt.Fprintln(cmd.ErrOrStderr(), "sallyport: "+what+": "+printable(p.String()))
	}
	if n := len(problems); n > 0 {
		return badAnswer{fmt.Errorf("%s: %s", what, problems[n-1])}
	}
	return nil
}

func describe(b *strings.Builder, l *policy.Layer) {
	mode := l.Mode
	if mode == "" {
		mode = policy.Enforce
	}
	fmt.Fprintf(b, "%s: ok, revision %d, mode %s, %d image rules, %d act rules, hash %s", printable(l.Name), l.Revision, mode, len(l.Images), len(l.Acts), l.Hash)
	if !l.NotAfter.IsZero() {
		fmt.Fprintf(b, ", until %s", stamp(l.NotAfter))
	}
	b.WriteString("\n")
}
