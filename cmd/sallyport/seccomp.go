package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/seccomp"
	"sallyport/seccomp/bpf"
)

// maxProfile is one byte more than a profile may have.
const maxProfile = 1<<20 + 1

func seccompCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "seccomp", Short: "explain and check seccomp profiles", Args: cobra.NoArgs, RunE: needsCommand}
	cmd.AddCommand(seccompExplainCommand(), seccompCheckCommand(), seccompDefaultCommand())
	return cmd
}

func seccompExplainCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "explain SYSCALL...", Short: "say what a profile answers to a syscall, and why", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := seccomp.Default()
			if file != "" {
				var err error
				if p, err = readProfile(file); err != nil {
					return err
				}
			}
			for _, call := range args {
				if !seccomp.Known(call) {
					return badAnswer{fmt.Errorf("%q is not a syscall of Linux", call)}
				}
				fmt.Fprintln(cmd.OutOrStdout(), p.Explain(call))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "profile", "", "a profile in JSON; the default profile if not given")
	return cmd
}

func seccompCheckCommand() *cobra.Command {
	var caps []string
	cmd := &cobra.Command{
		Use: "check FILE", Short: "read a profile, compile it and compare the filter with it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := readProfile(args[0])
			if err != nil {
				return err
			}
			oci, err := p.OCI(caps)
			if err != nil {
				return badAnswer{fmt.Errorf("%s: %w", args[0], err)}
			}
			f, err := bpf.Compile(oci)
			if err != nil {
				return badAnswer{fmt.Errorf("%s: %w", args[0], err)}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "ok: %d instructions, hash %s\n", f.Len(), f.Hash())
			if u := f.Unresolved(); len(u) > 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "note: libseccomp %s does not know %s; the default answers them\n", bpf.Library(), strings.Join(u, ", "))
			}
			for _, l := range slices.Compact(p.Lint()) {
				fmt.Fprintf(cmd.OutOrStdout(), "warning: %s\n", l)
			}
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&caps, "caps", nil, "capabilities that the container has, such as CAP_SYS_ADMIN")
	return cmd
}

func seccompDefaultCommand() *cobra.Command {
	return &cobra.Command{
		Use: "default", Short: "print the default profile, to start one's own from", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(seccomp.DefaultJSON())
			return err
		},
	}
}

func readProfile(file string) (seccomp.Profile, error) {
	f, err := os.Open(file)
	if err != nil {
		return seccomp.Profile{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxProfile))
	if err != nil {
		return seccomp.Profile{}, err
	}
	p, err := seccomp.FromJSON(data)
	if err != nil {
		return seccomp.Profile{}, badAnswer{fmt.Errorf("%s: %w", file, err)}
	}
	return p, nil
}
