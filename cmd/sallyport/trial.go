package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"sallyport/policy/bundle"
	"sallyport/policy/trial"
)

func policyTestCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "test DIR...",
		Short: "try the cases (*.txtar) of directories on a policy",
		Long: "A case holds request.yaml, want.yaml and, as a rule, the policy: node/ and namespaces/<name>/.\n" +
			"Without node/bundle.yaml it is tried on the policy of the directory above DIR. See docs/policy.md.",
		Args: cobra.MinimumNArgs(1),
		RunE: testPolicy,
	}
}

func testPolicy(cmd *cobra.Command, dirs []string) error {
	tried, red := 0, 0
	for _, dir := range dirs {
		cases, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
		if err != nil {
			return fmt.Errorf("test policy: %w", err)
		}
		if len(cases) == 0 {
			return fmt.Errorf("test policy: %s holds no case (*.txtar)", dir)
		}
		slices.Sort(cases)
		for _, file := range cases {
			data, err := os.ReadFile(file)
			if err != nil {
				return fmt.Errorf("test policy: %w", err)
			}
			tried++
			line := "ok   " + file
			if err := trial.Run(cmd.Context(), data, filepath.Dir(filepath.Clean(dir))); err != nil {
				red++
				line = fmt.Sprintf("FAIL %s: %v", file, err)
			}
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), printable(line)); err != nil {
				return err
			}
		}
	}
	if red > 0 {
		return badAnswer{fmt.Errorf("test policy: %d of %d cases failed", red, tried)}
	}
	return nil
}

func policyDiffCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "list what a policy directory changes: rules, files, and each knob of hardening",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, dir := range args {
				if _, err := os.Stat(dir); err != nil {
					return fmt.Errorf("compare policy: %w", err)
				}
			}
			changes, err := bundle.Diff(args[0], args[1])
			if err != nil {
				return badAnswer{fmt.Errorf("compare policy: %w", err)}
			}
			for _, c := range changes {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), printable(fmt.Sprintf("%s: %s: %s", c.Layer, c.What, c.How))); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
