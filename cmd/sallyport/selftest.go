package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"sallyport/internal/admin/wire"
)

func selfTestCommand() *cobra.Command {
	var l live
	return liveCommand(&cobra.Command{
		Use: "selftest", Short: "prove that the running daemon enforces, through its own CRI socket", Args: cobra.NoArgs,
		Long: "The daemon asks itself for images that are signed, unsigned, tampered with and signed by a key that has\n" +
			"ended, and for a pod, in a namespace of their own. Nothing runs and nothing stays.\n" +
			"Exit code 1 says that an answer was not the one that must come.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := ask[wire.SelfTest](l, wire.CallTest, wire.Empty{}, 2*time.Minute)
			if err != nil {
				return err
			}
			if err := l.show(cmd.OutOrStdout(), v, func(t *tabwriter.Writer) { selfTestTable(t, v) }); err != nil {
				return err
			}
			if !v.Passed {
				return badAnswer{fmt.Errorf("selftest: the daemon did not answer as it must")}
			}
			return nil
		},
	}, &l)
}

func selfTestTable(t *tabwriter.Writer, v wire.SelfTest) {
	row(t, "PROBE", "WANTED", "GOT", "RESULT", "RULE", "ANSWER")
	for _, p := range v.Probes {
		result := "FAILED"
		if p.OK {
			result = "ok"
		}
		row(t, p.Name, p.Want, p.Got, result, p.Rule, p.Msg)
	}
}
