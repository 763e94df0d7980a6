package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/audit"
)

// minPrefix is the shortest part of a container's or pod's ID that is looked up.
const minPrefix = 4

func explainCommand() *cobra.Command {
	var dir string
	var asJSON, input bool
	cmd := &cobra.Command{
		Use:   "explain ID",
		Short: "say in plain words what was decided and why",
		Long: "ID is the number of an audit record, as denials name it (4812 or #4812), or the ID of a container or pod,\n" +
			"or the beginning of one. Of a container every record is explained, oldest first.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			records, err := lookUp(dir, args[0])
			if err != nil {
				return err
			}
			for i, r := range records {
				switch {
				case asJSON:
					err = json.NewEncoder(cmd.OutOrStdout()).Encode(r)
				case input:
					err = writeInput(cmd.OutOrStdout(), dir, r)
				default:
					if i > 0 {
						fmt.Fprintln(cmd.OutOrStdout())
					}
					err = explain(cmd.OutOrStdout(), r)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", auditDir, "directory of the log")
	cmd.Flags().BoolVar(&asJSON, "json", false, "the record itself, one JSON object a line")
	cmd.Flags().BoolVar(&input, "input", false, "the redacted input that was judged")
	cmd.MarkFlagsMutuallyExclusive("json", "input")
	return cmd
}

// lookUp finds the records that id means: one by number, else all of one container or pod.
func lookUp(dir, id string) ([]audit.Record, error) {
	if seq, err := strconv.ParseUint(strings.TrimPrefix(id, "#"), 10, 64); err == nil {
		r, err := audit.Find(dir, seq)
		if err == nil {
			return []audit.Record{r}, nil
		}
		if !errors.Is(err, audit.ErrNotFound) || len(id) < minPrefix || strings.HasPrefix(id, "#") {
			return nil, err
		}
	}
	if len(id) < minPrefix {
		return nil, fmt.Errorf("%q: give a record's number or at least %d characters of an ID", id, minPrefix)
	}
	var records []audit.Record
	matched := make(map[string]bool)
	err := audit.Read(dir, func(r audit.Record) error {
		for _, have := range []string{r.Event.ID, r.Event.PodID} {
			if strings.HasPrefix(have, id) {
				matched[have] = true
				records = append(records, r)
				break
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	switch len(matched) {
	case 0:
		return nil, fmt.Errorf("no record, container or pod %q in %s: %w", id, dir, audit.ErrNotFound)
	case 1:
		return records, nil
	}
	return nil, badAnswer{fmt.Errorf("%q is the beginning of %d IDs: %s", id, len(matched), strings.Join(slices.Sorted(maps.Keys(matched)), ", "))}
}

func writeInput(w io.Writer, dir string, r audit.Record) error {
	if r.Event.InputHash == "" {
		return badAnswer{fmt.Errorf("record %d has no input", r.Seq)}
	}
	data, err := audit.Input(dir, r.Event.InputHash)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", data)
	return err
}

// explain writes one record as paragraphs of plain words.
func explain(w io.Writer, r audit.Record) error {
	e := r.Event
	var b strings.Builder
	say := func(format string, args ...any) {
		b.WriteString(printable(fmt.Sprintf(format, args...)) + "\n")
	}
	say("#%d at %s on node %q (boot %s)", r.Seq, stamp(e.Time), r.Node, r.Boot)
	say("%s", headline(e))
	if e.Count > 0 {
		say("This sums up %d repeats of an earlier record.", e.Count)
	}
	if e.Image != "" {
		say("Image: %s", e.Image)
		for _, d := range []struct{ what, digest string }{
			{"as named", e.Top}, {"for this platform", e.Instance}, {"image ID", e.ImageID},
		} {
			if d.digest != "" {
				say("  %s: %s", d.what, d.digest)
			}
		}
	}
	if e.ID != "" {
		say("Container ID: %s", e.ID)
	}
	if e.PodID != "" {
		say("Pod ID: %s", e.PodID)
	}
	if len(e.Argv) > 0 {
		say("Command: %q", e.Argv)
	}
	for _, h := range e.Hits {
		say("Because: %s, rule %q: %s", h.Layer, h.Rule, h.Msg)
	}
	for _, h := range e.Warnings {
		say("Warned, not denied: %s, rule %q: %s", h.Layer, h.Rule, h.Msg)
	}
	if len(e.Rules) > 0 {
		say("Rules about it: %s", strings.Join(e.Rules, ", "))
	}
	for _, id := range e.Identities {
		say("Proved signer: %s", id)
	}
	for _, weak := range e.Weakenings {
		say("Hardening that was asked to be weaker: %s", weak)
	}
	for _, name := range slices.Sorted(maps.Keys(e.Policies)) {
		say("Policy: %s, hash %s", name, e.Policies[name])
	}
	if e.Source != "" {
		say("Policy source: %s", e.Source)
	}
	if e.SpecHash != "" {
		say("Runtime spec: SHA-256 %s", e.SpecHash)
	}
	if e.InputHash != "" {
		say("Input: SHA-256 %s; see it with \"sallyport explain --input %d\"", e.InputHash, r.Seq)
	}
	for _, key := range slices.Sorted(maps.Keys(e.Detail)) {
		say("%s: %s", key, e.Detail[key])
	}
	say("Chain: %s", r.Head)
	_, err := io.WriteString(w, b.String())
	return err
}

// headline is the decision in one sentence.
func headline(e audit.Event) string {
	if e.Verb == "" {
		return fmt.Sprintf("Event: %s %s", e.Type, e.Outcome)
	}
	outcome := map[string]string{"allow": "Allowed", "deny": "Denied"}[e.Outcome]
	if outcome == "" {
		outcome = "Recorded as " + e.Outcome
	}
	text := outcome + ": " + e.Verb
	if e.Container != "" {
		text += fmt.Sprintf(" of container %q", e.Container)
	}
	if e.Pod != "" {
		text += fmt.Sprintf(" in pod %q", e.Pod)
	}
	if e.Namespace != "" {
		return text + fmt.Sprintf(", namespace %q", e.Namespace)
	}
	return text + ", without a namespace"
}
