// Command bench measures a whole node on real parts and prints one JSON document: latencies of the
// kubelet's everyday calls, throughput, memory of daemon and monitors, start-up with many pods, pulls
// with a strict and with a permissive policy, and the gate's verdicts. Compare figures of one run with
// each other; machines differ and are noisy.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"sallyport/policy/rego/confine"
	"sallyport/test/node"
)

// figure is one measured thing. Times are milliseconds.
type figure struct {
	Name string  `json:"name"`
	Unit string  `json:"unit"`
	N    int     `json:"n,omitempty"`
	P50  float64 `json:"p50,omitempty"`
	P99  float64 `json:"p99,omitempty"`
	Min  float64 `json:"min,omitempty"`
	One  float64 `json:"value,omitempty"`
	Peer string  `json:"peer,omitempty"` // CRI-O 1.37 and containerd 2.4 on this kind of machine
}

type report struct {
	When    time.Time `json:"when"`
	Go      string    `json:"go"`
	CPUs    int       `json:"cpus"`
	Kernel  string    `json:"kernel"`
	Runc    string    `json:"runc"`
	Figures []figure  `json:"figures"`
}

func main() {
	confine.Init() // the rules of namespaces run in a child of this very program
	bin := flag.String("bin", "bin", "folder with sallyportd and sallyport-init")
	deps := flag.String("deps", ".deps", "folder with the real components")
	pods := flag.Int("pods", 50, "pods for the latency of one pod start")
	many := flag.Int("many", 100, "pods for everything with many pods")
	growth := flag.Bool("growth", false, "instead of everything else, show how cost grows to 500 pods and 5,000 images (half an hour)")
	trace := flag.Bool("trace", false, "instead of everything else, show where the time of a pod goes, stage by stage")
	flag.Parse()
	os.Exit(node.Isolate(func(scratch string) int {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		ctx, cancel := context.WithTimeout(ctx, time.Hour)
		defer cancel()
		b := &bench{ctx: ctx, scratch: scratch, pods: *pods, many: *many}
		b.bin, _ = filepath.Abs(*bin)
		b.deps, _ = filepath.Abs(*deps)
		stages := []func() error{b.publish, b.idle, b.onePod, b.manyPods, b.pulls, b.verdicts, b.scale}
		if *growth {
			stages = []func() error{b.publish, b.growth}
		}
		if *trace {
			stages = []func() error{b.publish, b.traced}
		}
		if err := b.run(stages); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			if b.node != nil {
				fmt.Fprintf(os.Stderr, "the daemon's log ends:\n%s\n", b.node.LogTail(15))
			}
			return 1
		}
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		if err := out.Encode(b.report()); err != nil {
			return 1
		}
		return 0
	}))
}

func (b *bench) report() report {
	var u syscall.Utsname
	_ = syscall.Uname(&u)
	var kernel strings.Builder
	for _, c := range u.Release {
		if c == 0 {
			break
		}
		kernel.WriteByte(byte(c))
	}
	version, _ := exec.Command(filepath.Join(b.deps, "bin", "runc"), "--version").Output()
	first, _, _ := strings.Cut(string(version), "\n")
	return report{time.Now().UTC().Truncate(time.Second), runtime.Version(), runtime.NumCPU(), kernel.String(), first, b.figures}
}

// add turns samples into a figure.
func (b *bench) add(name, peer string, samples []time.Duration) {
	slices.Sort(samples)
	at := func(q float64) float64 {
		return float64(samples[min(len(samples)-1, int(q*float64(len(samples))))].Microseconds()) / 1000
	}
	f := figure{Name: name, Unit: "ms", N: len(samples), P50: at(0.5), P99: at(0.99), Min: at(0), Peer: peer}
	b.figures = append(b.figures, f)
	fmt.Fprintf(os.Stderr, "%-64s p50 %8.2f ms  p99 %8.2f ms  (%s)\n", name, f.P50, f.P99, peer)
}

func (b *bench) value(name, unit, peer string, v float64) {
	b.figures = append(b.figures, figure{Name: name, Unit: unit, One: v, Peer: peer})
	fmt.Fprintf(os.Stderr, "%-64s %10.2f %s  (%s)\n", name, v, unit, peer)
}

// timed runs f and returns how long it took.
func timed(f func() error) (time.Duration, error) {
	start := time.Now()
	err := f()
	return time.Since(start), err
}
