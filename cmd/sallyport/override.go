package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"sallyport/policy"
	"sallyport/policy/bundle"
)

func policyOverrideCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "override", Short: "break glass: sign and show overrides", Args: cobra.NoArgs, RunE: needsCommand}
	cmd.AddCommand(overrideSignCommand(), overrideShowCommand())
	return cmd
}

func overrideSignCommand() *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use: "sign --key KEY OVERRIDE.JSON", Short: "sign an override, with a key that root.json delegates overrides to", Args: cobra.ExactArgs(1),
		Long: "The signature is put beside the file; install both in overrides/ of the policy directory.",
		RunE: func(_ *cobra.Command, args []string) error {
			if _, err := readOverride(args[0]); err != nil {
				return err
			}
			priv, err := privateKey(key)
			if err != nil {
				return err
			}
			return signPolicy(priv, args[0])
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "private key")
	_ = cmd.MarkFlagRequired("key")
	return cmd
}

func overrideShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show OVERRIDE.JSON", Short: "say in plain words what an override would let pass", Args: cobra.ExactArgs(1),
		Long: "It says nothing of who signed it; \"sallyport policy status\" shows those that a running daemon accepted.",
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := readOverride(args[0])
			if err != nil {
				return err
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			verbs := make([]string, len(o.Verbs))
			for i, v := range o.Verbs {
				verbs[i] = string(v)
			}
			for _, line := range [][2]string{
				{"lets pass", strings.Join(o.Rules, ", ")}, {"for", strings.Join(verbs, " and ") + " of " + o.Digest.String()}, {"in namespace", o.Namespace},
				{"from", stamp(o.NotBefore)}, {"until", stamp(o.NotAfter)}, {"at most", fmt.Sprintf("%d times on each node", o.MaxUses)},
				{"ticket", o.Ticket}, {"reason", o.Reason}, {"to sign", "sha256:" + o.ID},
			} {
				row(t, line[0], line[1])
			}
			return t.Flush()
		},
	}
}

func readOverride(path string) (o policy.Override, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return o, fmt.Errorf("read override: %w", err)
	}
	if o, err = bundle.ParseOverride(text); err != nil {
		return o, badAnswer{fmt.Errorf("read override %s: %w", filepath.Base(path), err)}
	}
	return o, nil
}
