package telemetry

import (
	"fmt"
	"strings"
)

// kind is a Prometheus metric type.
type kind string

const (
	counter   kind = "counter"
	gauge     kind = "gauge"
	histogram kind = "histogram"
	summary   kind = "summary" // without quantiles: a sum and a count
)

// family is one metric. What it may be labelled with stands here: no label holds a name of an image, pod
// or namespace.
type family struct {
	name   string
	kind   kind
	labels []string
	help   string // one line; docs/metrics.md is made of it
}

// families are all metrics, sorted by name. Adding one is adding a line here and giving it a value.
var families = []family{
	{"go_goroutines", gauge, nil, "Goroutines of the daemon."},
	{"go_memstats_heap_inuse_bytes", gauge, nil, "Heap in use, in bytes."},
	{"process_open_fds", gauge, nil, "Open file descriptors of the daemon."},
	{"process_start_time_seconds", gauge, nil, "When the daemon started, in seconds since 1970."},
	{"sallyport_audit_failing", gauge, nil, "1 while the audit log takes no records; then nothing is admitted."},
	{"sallyport_audit_failures_total", counter, nil, "Writes or syncs of the audit log that failed."},
	{"sallyport_audit_records_total", counter, nil, "Records in the audit log since it was begun."},
	{"sallyport_audit_sync_seconds", summary, nil, "Time of a write with its fdatasync. Records that come together share one."},
	{"sallyport_build_info", gauge, []string{"version"}, "1, with the daemon's version."},
	{"sallyport_containers", gauge, []string{"state"}, "Containers by state: created, running, exited."},
	{"sallyport_cri_seconds", histogram, []string{"code", "method"}, "CRI calls by method and gRPC code: number, time, errors (every code but OK)."},
	{"sallyport_gate_decisions_total", counter, []string{"outcome", "verb"}, "Decisions of the gate: allow or deny, by verb; override counts the allowed ones that an override let pass."},
	{"sallyport_gate_denials_total", counter, []string{"rule", "verb"}, "Denials by the first rule that denied. Rules of namespaces' own policies are one: namespace-policy."},
	{"sallyport_gate_shadow_total", counter, []string{"difference", "verb"}, "Where a policy in mode shadow differs from what is enforced: would-deny or would-admit."},
	{"sallyport_network_ready", gauge, nil, "1 if pods can get a network (CNI)."},
	{"sallyport_oom_kills_total", counter, nil, "Containers that ended because they ran out of memory."},
	{"sallyport_pods", gauge, []string{"state"}, "Pods by state: ready, notready."},
	{"sallyport_policy_enforced", gauge, nil, "1 if a policy is installed and the audit log takes records."},
	{"sallyport_policy_expiry_timestamp_seconds", gauge, []string{"layer"}, "When the policy ends, in seconds since 1970: the node's, and the earliest of the namespaces'. Absent if it has no end."},
	{"sallyport_policy_namespaces", gauge, nil, "Namespaces that have a policy of their own."},
	{"sallyport_policy_problems", gauge, nil, "Policies that were refused when the files were last read."},
	{"sallyport_policy_revision", gauge, nil, "Revision of the node policy in force."},
	{"sallyport_pull_bytes_total", counter, nil, "Compressed bytes of layers that were downloaded and verified."},
	{"sallyport_pull_layers_total", counter, []string{"source"}, "Layers of pulls: downloaded, or reused because they were held already."},
	{"sallyport_pull_seconds", histogram, []string{"outcome"}, "Pulls by outcome: ok, or why not (denied, unavailable, unauthorized, not-found, invalid, corrupt, timeout, canceled, other)."},
	{"sallyport_registry_settings_problems", gauge, nil, "Registry settings (registries.conf, certificates of a host, a file of credentials) that are broken; what was there before is in force."},
	{"sallyport_rejudge_findings", gauge, nil, "Containers that run and would not be admitted now."},
	{"sallyport_rejudge_halted", gauge, nil, "1 where re-judging has stopped the most containers that a policy lets it stop, and more are due."},
	{"sallyport_rejudge_stopped_total", counter, nil, "Containers that re-judging stopped."},
	{"sallyport_selftest_passed", gauge, nil, "1 if the last self-test got every answer that it must get, 0 if not. Absent until there was one."},
	{"sallyport_selftest_timestamp_seconds", gauge, nil, "When the last self-test was, in seconds since 1970. Absent until there was one."},
	{"sallyport_stream_bytes_total", counter, []string{"direction", "kind"}, "Bytes of streams that ended, to (in) and from (out) the container or pod."},
	{"sallyport_stream_seconds", histogram, []string{"kind", "outcome"}, "Streams that ended: exec, attach or portforward; ok or error."},
	{"sallyport_streams_open", gauge, []string{"kind"}, "Streams that are open."},
}

// Markdown is docs/metrics.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString("# Metrics\n\nFigures of the daemon itself, in Prometheus' text format, where `metrics.address` listens (docs/config.md) and on the\n" +
		"inspect socket. No label holds a name of an image, pod or namespace, and a metric has at most " + fmt.Sprint(maxSeries) + " series: what comes\n" +
		"after has every label `other`. What pods and containers use is told over the CRI (docs/observability.md).\n\n| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n")
	for _, f := range families {
		labels := "-"
		if len(f.labels) > 0 {
			labels = "`" + strings.Join(f.labels, "` `") + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.name, f.kind, labels, f.help)
	}
	return b.String()
}
