package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/test/roottest"
)

// site is a node's network of a test's own: a bridge, a lease directory and a configuration.
type site struct {
	CNI    *CNI
	conf   string // directory
	cache  string
	leases string
	bridge string
	plan   string // the conflist
}

var bridges = os.Getpid() % 1000 * 10

// newSite writes a bridge network with host-local and portmap, and removes what the plugins make.
func newSite(tb testing.TB) *site {
	tb.Helper()
	roottest.Need(tb)
	for _, plugin := range []string{"bridge", "host-local", "portmap"} {
		roottest.Binary(tb, plugin)
	}
	bridges++
	s := &site{conf: tb.TempDir(), cache: tb.TempDir(), leases: tb.TempDir(), bridge: fmt.Sprintf("spt%d", bridges)}
	s.plan = fmt.Sprintf(`{"cniVersion":"1.1.0","name":"%[1]s","plugins":[
		{"type":"bridge","bridge":"%[1]s","isGateway":true,"ipMasq":false,"ipam":{"type":"host-local","dataDir":%[2]q,
		 "ranges":[[{"subnet":"10.%[3]d.%[4]d.0/24"}]]}},
		{"type":"portmap","capabilities":{"portMappings":true},"snat":false}]}`,
		s.bridge, s.leases, 200+bridges%50, bridges/50%250)
	write(tb, filepath.Join(s.conf, "10-spt.conflist"), s.plan)
	s.CNI = s.open(tb, "boot-1")
	if err := s.CNI.Recover(tb.Context(), none); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.CNI.Sweep(context.Background(), none); err != nil {
			tb.Errorf("sweep: %v", err)
		}
		exec.Command("ip", "link", "del", s.bridge).Run()
	})
	return s
}

func (s *site) open(tb testing.TB, boot string) *CNI {
	tb.Helper()
	c, err := New(Options{ConfDir: s.conf, BinDirs: []string{roottest.CNIBin()}, CacheDir: s.cache, BootID: boot})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// leased counts the addresses that host-local holds.
func (s *site) leased(tb testing.TB) int {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(s.leases, s.bridge, "10.*"))
	if err != nil {
		tb.Fatal(err)
	}
	return len(files)
}

func (s *site) records(tb testing.TB) int {
	tb.Helper()
	ids, err := s.CNI.attached()
	if err != nil {
		tb.Fatal(err)
	}
	return len(ids)
}

func none(string) bool  { return false }
func every(string) bool { return true }

func write(tb testing.TB, path, text string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		tb.Fatal(err)
	}
}

// netns makes a network namespace with an ID of its own and pins it.
func netns(tb testing.TB, id string) string {
	tb.Helper()
	name := fmt.Sprintf("spt-%d-%s", os.Getpid(), id)
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		tb.Fatalf("ip netns add: %v: %s", err, out)
	}
	tb.Cleanup(func() { exec.Command("ip", "netns", "del", name).Run() })
	return "/var/run/netns/" + name
}

func pod(tb testing.TB, id string) Attachment {
	return Attachment{PodID: id, Namespace: "shop", Name: "web-0", UID: "0c2f-1", NetNS: netns(tb, id)}
}

func TestAttach(t *testing.T) {
	s := newSite(t)
	a := pod(t, "aa01")
	a.Ports = []Port{{HostPort: 18080, ContainerPort: 80, Protocol: "tcp"}}
	res, err := s.CNI.Attach(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	if res.Network != s.bridge || len(res.IPs) != 1 {
		t.Fatalf("Attach() = %+v, want one address of %s", res, s.bridge)
	}
	if _, err := s.CNI.Attach(t.Context(), a); !errors.Is(err, ErrAttached) {
		t.Errorf("second Attach() = %v, want %v", err, ErrAttached)
	}
	out, err := exec.Command("nsenter", "--net="+a.NetNS, "ip", "-o", "-4", "addr", "show", "eth0").CombinedOutput()
	if err != nil || !strings.Contains(string(out), res.IPs[0].String()) {
		t.Errorf("eth0 = %s, %v, want %s", out, err, res.IPs[0])
	}
	if !nat(t, "18080") {
		t.Error("the host port has no rule")
	}
	if err := s.CNI.Check(t.Context(), a.PodID); err != nil {
		t.Errorf("Check() = %v", err)
	}
	for range 2 { // the second time it is detached already
		if err := s.CNI.Detach(t.Context(), a.PodID); err != nil {
			t.Fatal(err)
		}
	}
	if nat(t, "18080") || s.leased(t) != 0 || s.records(t) != 0 {
		t.Errorf("left: rule %v, %d leases, %d records", nat(t, "18080"), s.leased(t), s.records(t))
	}
	if err := s.CNI.Check(t.Context(), a.PodID); err == nil {
		t.Error("Check() of a detached pod = nil")
	}
}

// nat tells whether a rule of the node's firewall names the port.
func nat(tb testing.TB, port string) bool {
	tb.Helper()
	out, err := exec.Command("iptables-save", "-t", "nat").Output()
	if err != nil {
		tb.Fatal(err)
	}
	return strings.Contains(string(out), port)
}

func TestDetachWithoutNamespace(t *testing.T) {
	s := newSite(t)
	a := pod(t, "aa02")
	if _, err := s.CNI.Attach(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	unix.Unmount(a.NetNS, unix.MNT_DETACH)
	os.Remove(a.NetNS)
	if err := s.CNI.Detach(t.Context(), a.PodID); err != nil {
		t.Fatal(err)
	}
	if s.leased(t) != 0 || s.records(t) != 0 {
		t.Errorf("left: %d leases, %d records", s.leased(t), s.records(t))
	}
}

// A pod is detached from the network that it was attached to, whatever is configured by then.
func TestDetachAfterReconfiguration(t *testing.T) {
	s := newSite(t)
	a := pod(t, "aa03")
	if _, err := s.CNI.Attach(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(s.conf, "10-spt.conflist"), `{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"nonsense"}]}`)
	s.CNI.load()
	if err := s.CNI.Detach(t.Context(), a.PodID); err != nil {
		t.Fatal(err)
	}
	if s.leased(t) != 0 {
		t.Error("the lease is left")
	}
}

func TestAttachRefuses(t *testing.T) {
	s := newSite(t)
	good := pod(t, "aa04")
	for _, tc := range []struct {
		name    string
		change  func(*Attachment)
		because string
	}{
		{"argument in the name", func(a *Attachment) { a.Name = "x;K8S_POD_NAMESPACE=kube-system" }, "byte ';' is not allowed"},
		{"equals in the namespace", func(a *Attachment) { a.Namespace = "a=b" }, "byte '=' is not allowed"},
		{"newline in the UID", func(a *Attachment) { a.UID = "a\nb" }, "is not allowed"},
		{"long name", func(a *Attachment) { a.Name = strings.Repeat("a", 254) }, "longer than 253"},
		{"ID that climbs", func(a *Attachment) { a.PodID = "../aa" }, "hexadecimal"},
		{"no ID", func(a *Attachment) { a.PodID = "" }, "hexadecimal"},
		{"relative namespace", func(a *Attachment) { a.NetNS = "ns" }, "absolute"},
		{"no namespace", func(a *Attachment) { a.NetNS = "" }, "absolute"},
		{"port 0", func(a *Attachment) { a.Ports = []Port{{0, 80, "tcp", ""}} }, "0 is no port"},
		{"protocol", func(a *Attachment) { a.Ports = []Port{{80, 80, "tcp -j ACCEPT", ""}} }, "is not tcp, udp or sctp"},
		{"host IP", func(a *Attachment) { a.Ports = []Port{{80, 80, "tcp", "1.1.1.1/0"}} }, "not an IP"},
		{"ports", func(a *Attachment) { a.Ports = make([]Port, 1001) }, "at most 1000"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := good
			tc.change(&a)
			if _, err := s.CNI.Attach(t.Context(), a); err == nil || !strings.Contains(err.Error(), tc.because) {
				t.Fatalf("Attach() = %v, want an error with %q", err, tc.because)
			}
			if s.records(t) != 0 || s.leased(t) != 0 {
				t.Error("something is left")
			}
		})
	}
	good.Ports = []Port{{18081, 80, "tcp", "127.0.0.1"}}
	if _, err := s.CNI.Attach(t.Context(), good); err != nil {
		t.Errorf("Attach() of the twin = %v", err)
	}
}

func TestAttachBeforeRecover(t *testing.T) {
	s := newSite(t)
	s.CNI = s.open(t, "boot-1")
	a := pod(t, "aa05")
	if _, err := s.CNI.Attach(t.Context(), a); !errors.Is(err, ErrNotRecovered) {
		t.Fatalf("Attach() = %v, want %v", err, ErrNotRecovered)
	}
	if err := s.CNI.Recover(t.Context(), none); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CNI.Attach(t.Context(), a); err != nil {
		t.Fatalf("Attach() after Recover() = %v", err)
	}
}

// fake makes a plugin of a shell script, which sees CNI's variables and its configuration as input.
func fake(tb testing.TB, s *site, script string) *CNI {
	tb.Helper()
	bin := tb.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "fake"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		tb.Fatal(err)
	}
	write(tb, filepath.Join(s.conf, "10-spt.conflist"), `{"cniVersion":"1.1.0","name":"fake","plugins":[{"type":"fake"}]}`)
	c, err := New(Options{ConfDir: s.conf, BinDirs: []string{bin}, CacheDir: s.cache, BootID: "boot-1"})
	if err != nil {
		tb.Fatal(err)
	}
	c.recovered.Store(true)
	return c
}

func TestAttachFails(t *testing.T) {
	ok := `{"cniVersion":"1.1.0","ips":[{"address":"10.9.9.9/24"}]}`
	for _, tc := range []struct {
		name    string
		add     string
		because string // "" is success
	}{
		{"success", `echo '` + ok + `'`, ""},
		{"own error", `printf '%s' '{"cniVersion":"1.1.0","code":11,"msg":"no\nspace","details":"left"}'; exit 1`, "fake ADD: no space: left (CNI code 11)"},
		{"stderr only", `echo 'iptables: bad\nrule' >&2; exit 3`, "fake ADD: exit status 3: iptables: bad rule"},
		{"words instead of JSON", `echo cannot; exit 5`, "fake ADD: exit status 5: cannot"},
		{"silent", `exit 4`, "fake ADD: exit status 4"},
		{"no JSON", `echo hello`, "invalid character"},
		{"no address", `echo '{"cniVersion":"1.1.0"}'`, "no address"},
		{"loopback as address", `echo '{"cniVersion":"1.1.0","ips":[{"address":"127.0.0.1/8"}]}'`, "cannot be a pod's address"},
		{"flood", `head -c 3000000 /dev/zero`, "larger than 1048576 bytes"},
		{"environment", `[ -z "$SECRET" ] && echo '` + ok + `' || echo '{"code":1,"msg":"saw the daemons environment"}'`, ""},
		{"arguments", `[ "$CNI_ARGS" = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=ab;K8S_POD_UID=1" ] && echo '` + ok + `'`, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv("SECRET", "s3cr3t")
			s := &site{conf: t.TempDir(), cache: t.TempDir()}
			log := filepath.Join(t.TempDir(), "log")
			s.CNI = fake(t, s, `echo $CNI_COMMAND >>`+log+`; [ $CNI_COMMAND = DEL ] && exit 0; `+tc.add)
			_, err := s.CNI.Attach(t.Context(), Attachment{PodID: "ab", Namespace: "shop", Name: "web-0", UID: "1", NetNS: "/proc/self/ns/net"})
			verbs, _ := os.ReadFile(log)
			if tc.because == "" {
				if err != nil || s.records(t) != 1 {
					t.Fatalf("Attach() = %v, %d records, want success and 1", err, s.records(t))
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.because) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("Attach() = %v, want one line with %q", err, tc.because)
			}
			if string(verbs) != "ADD\nDEL\n" || s.records(t) != 0 {
				t.Errorf("verbs = %q, %d records, want ADD, DEL and none", verbs, s.records(t))
			}
		})
	}
}

// A plugin that hangs is ended with all that it started, and an ADD whose DEL failed is found again.
func TestAttachHangs(t *testing.T) {
	s := &site{conf: t.TempDir(), cache: t.TempDir()}
	dir := t.TempDir()
	s.CNI = fake(t, s, `cd `+dir+`; [ $CNI_COMMAND = DEL ] && { [ -e fixed ] && exit 0 || exit 1; }; sleep 61 & echo $! >pid; wait`)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := s.CNI.Attach(ctx, Attachment{PodID: "ab", NetNS: "/proc/self/ns/net"})
	if err == nil || !strings.Contains(err.Error(), "fake ADD: ended: context deadline exceeded") {
		t.Fatalf("Attach() = %v, want the deadline", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("Attach() took %v", took)
	}
	data, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	gone := func() bool {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(data)) + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ")
	}
	for deadline := time.Now().Add(5 * time.Second); !gone(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("what the plugin started still runs")
		}
	}
	if s.records(t) != 1 {
		t.Fatal("the record of a failed DEL is gone")
	}
	if err := s.CNI.Sweep(t.Context(), every); err != nil || s.records(t) != 1 {
		t.Fatalf("Sweep() of a live pod = %v, %d records, want it kept", err, s.records(t))
	}
	if err := s.CNI.Sweep(t.Context(), none); err == nil || s.records(t) != 1 {
		t.Fatalf("Sweep() = %v, %d records, want an error and the record", err, s.records(t))
	}
	write(t, filepath.Join(dir, "fixed"), "")
	if err := s.CNI.Sweep(t.Context(), none); err != nil || s.records(t) != 0 {
		t.Fatalf("Sweep() = %v, %d records, want none", err, s.records(t))
	}
}

// An ADD that its caller gave up is undone all the same.
func TestAttachGivenUp(t *testing.T) {
	s := &site{conf: t.TempDir(), cache: t.TempDir()}
	log := filepath.Join(t.TempDir(), "log")
	s.CNI = fake(t, s, `[ $CNI_COMMAND = ADD ] && exec sleep 61; echo $CNI_COMMAND >`+log)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.CNI.Attach(ctx, Attachment{PodID: "ab", NetNS: "/proc/self/ns/net"}); err == nil {
		t.Fatal("Attach() = nil error")
	}
	if said, _ := os.ReadFile(log); string(said) != "DEL\n" || s.records(t) != 0 {
		t.Errorf("verbs = %q, %d records, want DEL and none", said, s.records(t))
	}
}

func TestDetachRefuses(t *testing.T) {
	s := &site{conf: t.TempDir(), cache: t.TempDir()}
	s.CNI = fake(t, s, "exit 0")
	for _, id := range []string{"", "../ab", "AB", strings.Repeat("a", 65)} {
		if err := s.CNI.Detach(t.Context(), id); err == nil || !strings.Contains(err.Error(), "hexadecimal") {
			t.Errorf("Detach(%q) = %v, want a refusal", id, err)
		}
	}
	if err := s.CNI.Detach(t.Context(), "ab"); err != nil {
		t.Errorf("Detach() of a pod that is not attached = %v, want nil", err)
	}
}

// The record is there before the plugin runs: a daemon killed in the middle finds it.
func TestRecordBeforeAdd(t *testing.T) {
	s := &site{conf: t.TempDir(), cache: t.TempDir()}
	s.CNI = fake(t, s, `[ $CNI_COMMAND = DEL ] && exit 0; [ -s `+s.cache+`/attachments/ab.json ] || { echo '{"code":1,"msg":"no record"}'; exit 1; }
echo '{"cniVersion":"1.1.0","ips":[{"address":"10.9.9.9/24"}]}'`)
	if _, err := s.CNI.Attach(t.Context(), Attachment{PodID: "ab", NetNS: "/proc/self/ns/net"}); err != nil {
		t.Fatal(err)
	}
}

func TestRecover(t *testing.T) {
	s := newSite(t)
	for _, id := range []string{"ab01", "ab02", "ab03"} {
		if _, err := s.CNI.Attach(t.Context(), pod(t, id)); err != nil {
			t.Fatal(err)
		}
	}
	live := func(id string) bool { return id != "ab03" }
	s.CNI = s.open(t, "boot-1") // a restart: the pod that is gone is detached, the others stay
	if err := s.CNI.Recover(t.Context(), live); err != nil {
		t.Fatal(err)
	}
	if s.leased(t) != 2 || s.records(t) != 2 {
		t.Fatalf("after a restart: %d leases, %d records, want 2", s.leased(t), s.records(t))
	}
	s.CNI = s.open(t, "boot-2") // a reboot: no pod is alive, whatever its record says
	if err := s.CNI.Recover(t.Context(), every); err != nil {
		t.Fatal(err)
	}
	if s.leased(t) != 0 || s.records(t) != 0 {
		t.Fatalf("after a reboot: %d leases, %d records, want none", s.leased(t), s.records(t))
	}
}

// A record that a kill kept from its name is nobody's.
func TestRecoverTidies(t *testing.T) {
	s := newSite(t)
	if _, err := s.CNI.Attach(t.Context(), pod(t, "ab06")); err != nil {
		t.Fatal(err)
	}
	litter := filepath.Join(s.CNI.dir(), ".tmp-1")
	if err := os.WriteFile(litter, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.CNI = s.open(t, "boot-1")
	if err := s.CNI.Recover(t.Context(), every); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(litter); err == nil || s.records(t) != 1 {
		t.Errorf("after a restart: %v, %d records, want the one that is whole", err, s.records(t))
	}
}

// The plugins are told which attachments remain.
func TestRecoverCollects(t *testing.T) {
	s := &site{conf: t.TempDir(), cache: t.TempDir()}
	log := filepath.Join(t.TempDir(), "log")
	s.CNI = fake(t, s, `[ $CNI_COMMAND = GC ] && cat >`+log+`; [ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.1.0","ips":[{"address":"10.9.9.9/24"}]}'; exit 0`)
	for _, id := range []string{"ab04", "ab05"} {
		if _, err := s.CNI.Attach(t.Context(), Attachment{PodID: id, NetNS: "/proc/self/ns/net"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CNI.Recover(t.Context(), func(id string) bool { return id == "ab04" }); err != nil {
		t.Fatal(err)
	}
	said, err := os.ReadFile(log)
	if want := `"cni.dev/valid-attachments":[{"containerID":"ab04","ifname":"eth0"}]`; err != nil || !strings.Contains(string(said), want) {
		t.Errorf("GC input = %s, %v, want %s", said, err, want)
	}
}

// A power cut can leave a record or a libcni result of which half is missing.
func TestDamagedRecord(t *testing.T) {
	s := newSite(t)
	a := pod(t, "ab06")
	if _, err := s.CNI.Attach(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	write(t, s.CNI.file(a.PodID), `{"version":1,"podID":"ab`)
	results, _ := filepath.Glob(filepath.Join(s.cache, "libcni", "results", "*"))
	if len(results) != 1 {
		t.Fatalf("results = %v, want one", results)
	}
	write(t, results[0], `{"kind":"cniCacheV1","resu`)
	if err := s.CNI.Detach(t.Context(), a.PodID); err != nil {
		t.Fatal(err)
	}
	if s.leased(t) != 0 || s.records(t) != 0 {
		t.Errorf("left: %d leases, %d records", s.leased(t), s.records(t))
	}
}

// 8 pods at once get 8 addresses.
func TestAttachAtOnce(t *testing.T) {
	s := newSite(t)
	type got struct {
		res Result
		err error
	}
	results := make(chan got)
	for i := range 8 {
		a := pod(t, fmt.Sprintf("ac%02d", i))
		go func() {
			res, err := s.CNI.Attach(t.Context(), a)
			results <- got{res, err}
		}()
	}
	seen := map[string]bool{}
	for range 8 {
		g := <-results
		if g.err != nil {
			t.Error(g.err)
			continue
		}
		seen[g.res.IPs[0].String()] = true
	}
	if len(seen) != 8 || s.leased(t) != 8 {
		t.Errorf("addresses = %v, %d leases, want 8", seen, s.leased(t))
	}
	if _, err := net.InterfaceByName(s.bridge); err != nil {
		t.Errorf("bridge: %v", err)
	}
}

// BenchmarkAttach measures ADD and DEL by the plugins in the chain, and the durable record beside them.
func BenchmarkAttach(b *testing.B) {
	for _, chain := range []string{"bridge", "bridge+portmap", "bridge+portmap+port", "bridge+portmap-nft+port", "record"} {
		b.Run(chain, func(b *testing.B) {
			s := newSite(b)
			if chain == "bridge" {
				write(b, filepath.Join(s.conf, "10-spt.conflist"), strings.Replace(s.plan, `,
		{"type":"portmap","capabilities":{"portMappings":true},"snat":false}`, "", 1))
				s.CNI.load()
			}
			if chain == "bridge+portmap-nft+port" {
				write(b, filepath.Join(s.conf, "10-spt.conflist"), strings.Replace(s.plan, `"type":"portmap"`, `"type":"portmap","backend":"nftables"`, 1))
				s.CNI.load()
			}
			a := pod(b, "bb01")
			if strings.HasSuffix(chain, "+port") {
				a.Ports = []Port{{18082, 80, "tcp", ""}}
			}
			var add, del time.Duration
			for b.Loop() {
				begin := time.Now()
				if chain == "record" {
					if err := s.CNI.keep(newRecord("boot-1", s.CNI.conf.Load().list, a)); err != nil {
						b.Fatal(err)
					}
				} else if _, err := s.CNI.Attach(b.Context(), a); err != nil {
					b.Fatal(err)
				}
				mid := time.Now()
				if err := s.CNI.Detach(b.Context(), a.PodID); err != nil {
					b.Fatal(err)
				}
				add += mid.Sub(begin)
				del += time.Since(mid)
			}
			b.ReportMetric(float64(add.Microseconds())/float64(b.N)/1000, "ms/add")
			b.ReportMetric(float64(del.Microseconds())/float64(b.N)/1000, "ms/del")
		})
	}
}
