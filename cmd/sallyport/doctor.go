package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"sallyport/internal/config"
	"sallyport/internal/doctor"
)

// errFindings is the answer "no" of the doctor.
var errFindings = errors.New("something on this node belongs to no record")

// kubelets are the cgroups below which a kubelet has its pods, by cgroup driver.
var kubelets = []string{"/kubepods", "/kubepods.slice"}

func doctorCommand() *cobra.Command {
	var file string
	var repair, asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "find what belongs to no pod or container; remove it with --repair",
		Long: `Looks for processes, cgroups, namespaces, mounts, layers and addresses of this daemon's that no record of
a pod or container names, and for records that keep a daemon from starting. It only looks, also beside a
running daemon, which may be making or removing some of what is shown.

With --repair, and the daemon stopped, it removes them. Nothing that a record names is touched, and nothing
of another runtime. Where containers live whose records are in another directory, it refuses and names it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.Load(file)
			if err != nil {
				return err
			}
			o := doctor.Options{Root: c.Root, State: c.State, Cgroups: append([]string{c.Runtime.Parent}, kubelets...), CNIConf: c.Network.ConfDir, CNIPlugins: c.Network.BinDirs, Timeout: c.Timeout.Network}
			if repair {
				return cure(cmd.Context(), o, cmd.OutOrStdout())
			}
			r, err := doctor.Examine(o)
			if err != nil {
				return err
			}
			if err := show(r, asJSON, cmd.OutOrStdout()); err != nil {
				return err
			}
			if len(r.Findings) > 0 {
				return badAnswer{errFindings}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "config", config.Path, "the daemon's configuration file")
	cmd.Flags().BoolVar(&repair, "repair", false, "remove what is found; the daemon must be stopped")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func show(r doctor.Report, asJSON bool, out io.Writer) error {
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	daemon := "stopped"
	if r.Running {
		daemon = "running"
	}
	fmt.Fprintf(out, "daemon %s; %d pods and %d containers on record; %d findings\n", daemon, r.Pods, r.Ctrs, len(r.Findings))
	return table(r.Findings, out)
}

func table(findings []doctor.Finding, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, f := range findings {
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Kind, printable(f.What), printable(f.Advice))
	}
	return w.Flush()
}

func cure(ctx context.Context, o doctor.Options, out io.Writer) error {
	removed, err := doctor.Repair(ctx, o)
	fmt.Fprintf(out, "%d removed\n", len(removed))
	if terr := table(removed, out); terr != nil {
		return terr
	}
	return err
}
