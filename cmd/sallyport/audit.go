package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport/audit"
)

func auditCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "verify and read the audit log", Args: cobra.NoArgs, RunE: needsCommand}
	cmd.AddCommand(auditVerifyCommand(), auditShowCommand())
	return cmd
}

func auditVerifyCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "verify", Short: "check every byte of the log against its hash chain", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := audit.Verify(dir)
			if err != nil {
				return err
			}
			return printReport(cmd, r)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", auditDir, "directory of the log")
	return cmd
}

func printReport(cmd *cobra.Command, r audit.Report) error {
	var b strings.Builder
	if r.Records == 0 {
		fmt.Fprintf(&b, "ok: no records yet, %d segments\n", r.Segments)
	} else {
		fmt.Fprintf(&b, "ok: %d records, %d to %d, and %d inputs in %d segments\nlatest: %s\n",
			r.Records, r.First, r.Last, r.Inputs, r.Segments, stamp(r.Latest))
	}
	fmt.Fprintf(&b, "head: %s\n", r.Head)
	if r.Removed > 0 {
		fmt.Fprintf(&b, "note: records 1 to %d are no longer here\n", r.Removed)
	}
	if r.Torn > 0 {
		fmt.Fprintf(&b, "note: the last %d bytes are an incomplete record, being written or cut by a crash; nobody relied on it\n", r.Torn)
	}
	_, err := cmd.OutOrStdout().Write([]byte(b.String()))
	return err
}

func auditShowCommand() *cobra.Command {
	var dir, since string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show", Short: "print the records, a line each", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			from, err := parseSince(since, time.Now())
			if err != nil {
				return err
			}
			out := bufio.NewWriter(cmd.OutOrStdout())
			err = audit.Read(dir, func(r audit.Record) error {
				if r.Event.Time.Before(from) {
					return nil
				}
				if asJSON {
					return json.NewEncoder(out).Encode(r)
				}
				_, err := fmt.Fprintln(out, printable(line(r)))
				return err
			})
			return errors.Join(err, out.Flush()) // what was read before a bad record is shown
		},
	}
	cmd.Flags().StringVar(&dir, "dir", auditDir, "directory of the log")
	cmd.Flags().StringVar(&since, "since", "", "only records from then on: a duration such as 90m, or a time such as 2026-11-22T10:00:00Z")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	return cmd
}

func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	return time.Time{}, fmt.Errorf("--since %q: not a duration such as 90m nor a time such as 2026-11-22T10:00:00Z", s)
}

// line is a record for people who look for one.
func line(r audit.Record) string {
	e := r.Event
	parts := []string{fmt.Sprintf("#%d", r.Seq), stamp(e.Time), e.Type}
	for _, s := range []string{e.Outcome, e.Verb} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	if e.Count > 0 {
		parts = append(parts, fmt.Sprintf("%d times", e.Count))
	}
	if p := place(e); p != "" {
		parts = append(parts, p)
	}
	if e.Image != "" {
		parts = append(parts, e.Image)
	}
	if len(e.Argv) > 0 {
		parts = append(parts, fmt.Sprintf("%q", e.Argv))
	}
	for _, h := range e.Hits {
		parts = append(parts, fmt.Sprintf("[%s: %s: %s]", h.Layer, h.Rule, h.Msg))
	}
	for _, h := range e.Warnings {
		parts = append(parts, fmt.Sprintf("[warning, %s: %s: %s]", h.Layer, h.Rule, h.Msg))
	}
	return strings.Join(parts, " ")
}

// place is namespace/pod/container, as far as known. Whoever speaks CRI chooses the last two: a name with
// anything but letters, digits and .-_ is quoted, so that none can pass for another part of the line.
func place(e audit.Event) string {
	var parts []string
	for _, s := range []string{e.Namespace, e.Pod, e.Container} {
		switch {
		case s == "":
			continue
		case strings.ContainsFunc(s, odd):
			s = strconv.Quote(s)
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, "/")
}

func odd(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '-' && r != '_'
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
