package sandbox

import (
	"strings"
	"testing"
	"time"

	"sallyport/sandbox/spec"
)

func TestLife(t *testing.T) {
	n := newNode(t)
	cfg := podConfig("web")
	cfg.LogDirectory = t.TempDir()
	cfg.DNS = &spec.DNS{Servers: []string{"10.0.0.10"}, Searches: []string{"shop.svc", "svc"}, Options: []string{"ndots:5"}}
	p := n.pod(cfg)
	if st := p.Status(); st.State != Ready || len(st.IPs) != 1 {
		t.Fatalf("Status() = %+v, want ready with an address", st)
	}
	c := script("app", `cat /etc/resolv.conf /etc/hostname; hostname; grep -E '^(CapInh|CapAmb|NoNewPrivs|Seccomp:)' /proc/self/status; ip addr show eth0; exit 3`)
	c.LogPath = "app/0.log"
	ctr := n.run(p, c)
	st := waitExit(t, ctr)
	if st.ExitCode != 3 || st.Reason != "Error" || st.Started.IsZero() || st.Finished.Before(st.Started) {
		t.Errorf("Status() = %+v, want exit code 3 with times", st)
	}
	got := logged(t, ctr)
	for _, want := range []string{"search shop.svc svc\nnameserver 10.0.0.10\noptions ndots:5\n", "web\nweb\n", "Seccomp:\t2", "CapInh:\t0000000000000000", p.Status().IPs[0].String()} {
		if !strings.Contains(got, want) {
			t.Errorf("log has no %q:\n%s", want, got)
		}
	}
	begun := time.Now()
	if err := p.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("remove took %v", time.Since(begun))
	if err := p.Remove(t.Context()); err != nil {
		t.Errorf("second Remove() = %v, want nil", err)
	}
}
