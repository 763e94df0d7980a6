// Sallyport is the operator's command line: it verifies and reads the audit log, explains decisions,
// checks policy before it is installed, and explains seccomp profiles. That reads files and needs no
// running daemon; what is live (ps, policy status) it asks the daemon on its admin socket. It decides
// nothing itself.
//
// It exits 0 if the answer is good, 1 if it is bad (a changed log, a broken policy, nothing found) and
// 2 if there is none (wrong usage, a file that cannot be read). An error is one line on stderr.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"sallyport/audit"
	"sallyport/internal/admin/wire"
	"sallyport/seccomp/bpf"
)

// version is set by the build: -ldflags "-X main.version=1.2.3".
var version = "devel"

// Where the daemon keeps things unless its config says otherwise.
const (
	auditDir  = "/var/lib/sallyport/audit"
	policyDir = "/etc/sallyport/policy"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is main without the process: it returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:               "sallyport",
		Short:             "verify the audit log, explain decisions, check policy",
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Args:              cobra.NoArgs,
		RunE:              needsCommand,
	}
	root.AddCommand(auditCommand(), doctorCommand(), explainCommand(), imageCommand(), policyCommand(), psCommand(), seccompCommand(), selfTestCommand(), verifyCommand(), versionCommand())
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.Execute(); err != nil {
		fmt.Fprintln(stderr, "sallyport: "+printable(err.Error()))
		return code(err)
	}
	return 0
}

// badAnswer is an error that is itself the answer: exit code 1.
type badAnswer struct{ error }

func (b badAnswer) Unwrap() error { return b.error }

func code(err error) int {
	var bad badAnswer
	var refused *wire.Refused
	if errors.As(err, &bad) || errors.As(err, &refused) && refused.Status < 500 || errors.Is(err, audit.ErrTampered) || errors.Is(err, audit.ErrNotFound) {
		return 1
	}
	return 2
}

func needsCommand(cmd *cobra.Command, args []string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return fmt.Errorf("%s: name a command: %s", cmd.CommandPath(), strings.Join(names, ", "))
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "sallyport %s (%s, libseccomp %s)\n", version, runtime.Version(), bpf.Library())
			return err
		},
	}
}

// printable makes text from a log or a file fit for a terminal and for one line: it holds names that
// strangers chose.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}
