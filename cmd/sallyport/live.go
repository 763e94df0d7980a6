package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"sallyport/internal/admin/wire"
	"sallyport/internal/config"
)

// patience is how long a call that only reads may take.
const patience = 20 * time.Second

// live is what the commands that ask the running daemon share.
type live struct {
	socket string
	json   bool
}

// liveCommand adds the flags of a command that asks the daemon.
func liveCommand(cmd *cobra.Command, l *live) *cobra.Command {
	cmd.Flags().StringVar(&l.socket, "socket", config.Default().AdminSocket(), "the daemon's admin socket")
	cmd.Flags().BoolVar(&l.json, "json", false, "the daemon's answer as one JSON object")
	return cmd
}

// ask makes one call.
func ask[Out any](l live, call string, in any, limit time.Duration) (out Out, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return out, wire.New(l.socket).Do(ctx, call, in, &out)
}

// show writes an answer: as JSON, or as table writes it.
func (l live) show(w io.Writer, answer any, table func(*tabwriter.Writer)) error {
	if l.json {
		return json.NewEncoder(w).Encode(answer)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	table(t)
	return t.Flush()
}

// row writes one line of a table; a cell holds no tab and no line break.
func row(t *tabwriter.Writer, cells ...string) {
	for i, c := range cells {
		if cells[i] = printable(c); c == "" {
			cells[i] = "-"
		}
	}
	fmt.Fprintln(t, strings.Join(cells, "\t"))
}

func psCommand() *cobra.Command {
	var l live
	return liveCommand(&cobra.Command{
		Use: "ps", Short: "list the containers with what they run and by which decision", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ps, err := ask[wire.Ps](l, wire.CallPs, wire.Empty{}, patience)
			if err != nil {
				return err
			}
			return l.show(cmd.OutOrStdout(), ps, func(t *tabwriter.Writer) {
				row(t, "ID", "NAMESPACE", "POD", "CONTAINER", "STATE", "AUDIT", "VERDICT", "IMAGE")
				for _, c := range ps.Containers {
					row(t, cut(c.ID), c.Namespace, c.Pod, c.Name, c.State, fmt.Sprintf("#%d", c.Audit), verdictNow(c), c.Image)
				}
				for _, c := range ps.Containers {
					for _, h := range c.Findings {
						fmt.Fprintf(t, "%s: rule %q: %s\n", cut(c.ID), printable(h.Rule), printable(h.Msg))
					}
				}
			})
		},
	}, &l)
}

// verdictNow says what the gate would say of a container now.
func verdictNow(c wire.Container) string {
	switch {
	case len(c.Findings) == 0:
		return "ok"
	case c.Override != "":
		return "override " + c.Override
	case !c.Due.IsZero():
		return "denied, stops " + stamp(c.Due)
	case c.Aged:
		return "aged"
	}
	return "denied"
}

func policyStatusCommand() *cobra.Command {
	var l live
	return liveCommand(&cobra.Command{
		Use: "status", Short: "show the policy that the running daemon enforces", Args: cobra.NoArgs,
		Long: "Exit code 1 says that something is wrong with the policy, or that there is none.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := ask[wire.Policy](l, wire.CallPolicy, wire.Empty{}, patience)
			if err != nil {
				return err
			}
			if err := l.show(cmd.OutOrStdout(), p, func(t *tabwriter.Writer) { policyTable(t, p) }); err != nil {
				return err
			}
			switch {
			case len(p.Layers) == 0:
				return badAnswer{fmt.Errorf("policy status: no policy is in force; everything is denied")}
			case len(p.Problems) > 0:
				return badAnswer{fmt.Errorf("policy status: %d problems", len(p.Problems))}
			}
			return nil
		},
	}, &l)
}

func policyTable(t *tabwriter.Writer, p wire.Policy) {
	row(t, "LAYER", "REVISION", "MODE", "HASH", "UNTIL", "IN FORCE")
	for _, l := range p.Layers {
		until, force := "", "yes"
		if !l.NotAfter.IsZero() {
			until = stamp(l.NotAfter)
		}
		switch {
		case l.Shadow:
			force = "on trial"
		case l.Kept:
			force = "last good one kept"
		}
		row(t, l.Name, fmt.Sprint(l.Revision), l.Mode, cut(l.Hash), until, force)
	}
	for _, o := range p.Overrides {
		fmt.Fprintf(t, "override %s (ticket %s): rules %s for %s of %s in namespace %s until %s, used %d of %d times\n", printable(o.Name), printable(o.Ticket),
			printable(strings.Join(o.Rules, ", ")), strings.Join(o.Verbs, " and "), cut(strings.TrimPrefix(o.Digest, "sha256:")), o.Namespace, stamp(o.NotAfter), o.Uses, o.MaxUses)
	}
	for _, problem := range p.Problems {
		fmt.Fprintf(t, "problem: %s: %s\n", printable(problem.Layer), printable(problem.Msg))
	}
	fmt.Fprintf(t, "source %s, %s\n", printable(p.Source), printable(p.Dir))
}

// cut shortens an ID or a hash for a table; sallyport explain takes the beginning of an ID.
func cut(id string) string { return id[:min(len(id), 12)] }

func verifyCommand() *cobra.Command {
	var l live
	var in wire.Verify
	cmd := liveCommand(&cobra.Command{
		Use: "verify IMAGE", Short: "ask the running daemon what it would say of an image", Args: cobra.ExactArgs(1),
		Long: "The daemon resolves IMAGE and judges it as for a pull, without pulling, and records the question.\n" +
			"Exit code 1 says that it would be denied.",
		RunE: func(cmd *cobra.Command, args []string) error {
			in.Image = args[0]
			v, err := ask[wire.Verified](l, wire.CallVerify, in, 2*time.Minute)
			if err != nil {
				return err
			}
			if err := l.show(cmd.OutOrStdout(), v, func(t *tabwriter.Writer) { verifyTable(t, v) }); err != nil {
				return err
			}
			if !v.Allowed {
				return badAnswer{fmt.Errorf("verify %s: it would be denied (audit #%d)", v.Image, v.Audit)}
			}
			return nil
		},
	}, &l)
	cmd.Flags().StringVarP(&in.Namespace, "namespace", "n", "", "of the pod that would run it; without it the node policy alone is asked")
	cmd.Flags().BoolVar(&in.Stored, "stored", false, "judge what is stored, as a create does, without the registry")
	return cmd
}

func verifyTable(t *tabwriter.Writer, v wire.Verified) {
	fmt.Fprintf(t, "image %s\n  means %s, here %s\n", printable(v.Image), v.Top, v.Instance)
	fmt.Fprintf(t, "evidence: %d Sigstore bundles, %d simple signatures", v.Evidence.Bundles, v.Evidence.Simple)
	if !v.Evidence.Complete {
		fmt.Fprintf(t, ", incomplete: %s", printable(v.Evidence.Missing))
	}
	fmt.Fprintln(t)
	row(t, "LAYER", "RULE", "ANSWER", "WANTED AND FOUND")
	for _, o := range v.Layers {
		denied := map[string]bool{}
		for _, h := range o.Hits {
			denied[h.Rule] = true
			row(t, o.Layer, h.Rule, "deny", h.Msg)
		}
		for _, h := range o.Warnings {
			row(t, o.Layer, h.Rule, "warn", h.Msg)
		}
		for _, rule := range o.Rules {
			if !denied[rule] {
				row(t, o.Layer, rule, "pass", strings.Join(o.Used, "; "))
			}
		}
	}
	for _, o := range v.Layers {
		for _, f := range o.Found {
			fmt.Fprintf(t, "proved to %s: %s\n", printable(o.Layer), printable(f))
		}
		for _, r := range o.Reasons {
			fmt.Fprintf(t, "proves nothing to %s: %s\n", printable(o.Layer), printable(r))
		}
	}
	answer := "would be denied"
	if v.Allowed {
		answer = "would be admitted"
	}
	fmt.Fprintf(t, "%s (audit #%d)\n", answer, v.Audit)
}
