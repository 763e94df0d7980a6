package sandbox

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func quantiles(b *testing.B, name string, d []time.Duration) {
	slices.Sort(d)
	b.ReportMetric(float64(d[len(d)/2].Microseconds())/1000, name+"-p50-ms")
	b.ReportMetric(float64(d[len(d)*99/100].Microseconds())/1000, name+"-p99-ms")
}

// BenchmarkPodStart is a pod with one container from nothing to running, gate and CNI included, and back.
func BenchmarkPodStart(b *testing.B) {
	n := newNode(b)
	var pods, creates, starts, all, gone []time.Duration
	for i := 0; b.Loop(); i++ {
		t0 := time.Now()
		p := n.pod(podConfig(fmt.Sprint("p", i)))
		t1 := time.Now()
		c, err := n.create(p, script("app", "sleep 1000"))
		must(b, err)
		t2 := time.Now()
		must(b, c.Start(b.Context()))
		t3 := time.Now()
		must(b, p.Remove(b.Context()))
		pods, creates, starts = append(pods, t1.Sub(t0)), append(creates, t2.Sub(t1)), append(starts, t3.Sub(t2))
		all, gone = append(all, t3.Sub(t0)), append(gone, time.Since(t3))
	}
	quantiles(b, "pod", pods)
	quantiles(b, "create", creates)
	quantiles(b, "start", starts)
	quantiles(b, "all", all)
	quantiles(b, "stopremove", gone)
}

func BenchmarkExecSync(b *testing.B) {
	n := newNode(b)
	c := n.run(n.pod(podConfig("a")), script("app", "sleep 1000"))
	var d []time.Duration
	for b.Loop() {
		t0 := time.Now()
		if res, err := n.exec(c, 0, "true"); err != nil || res.Code != 0 {
			b.Fatal(res, err)
		}
		d = append(d, time.Since(t0))
	}
	quantiles(b, "exec", d)
}
