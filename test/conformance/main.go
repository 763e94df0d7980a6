// Command conformance runs the public CRI validation suite (critest of cri-tools, built elsewhere)
// against a Sallyport node, and with -crictl also crictl's verbs; with -kubelet it runs a
// kubelet instead. The node runs in namespaces of its
// own, and stand-ins for the suite's images come from a registry there, so it needs no network and
// leaves nothing behind. It exits 0 if nothing failed but what expected.txt names.
package main

import (
	"context"
	"embed"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"sallyport/test/node"
	"sallyport/test/sigkit"
)

//go:embed policy
var policies embed.FS

//go:embed expected.txt
var expected string

// options are what the command line says; paths are absolute.
type options struct {
	critest, crictl, kubelet, shell, bin, deps, focus, skip, floor, out string
}

func main() {
	var o options
	flag.StringVar(&o.critest, "critest", "", "the suite's program; empty: do not run it")
	flag.StringVar(&o.crictl, "crictl", "", "crictl; empty: do not try its verbs")
	flag.StringVar(&o.kubelet, "kubelet", "", "a kubelet, run alone with pods from a folder instead of the suite")
	flag.StringVar(&o.shell, "shell", "", "a busybox for the images' /bin/sh that runs programs from PATH, not itself; empty: Debian's static one")
	flag.StringVar(&o.bin, "bin", "bin", "folder with sallyportd, sallyport-init and standin")
	flag.StringVar(&o.deps, "deps", ".deps", "folder with the real components")
	flag.StringVar(&o.focus, "focus", "", "run only specs that match this regular expression")
	flag.StringVar(&o.skip, "skip", "", "leave out specs that match this regular expression")
	flag.StringVar(&o.floor, "floor", "privileged", "privileged: what the suite asks for is granted; default: the product's floor")
	flag.StringVar(&o.out, "out", "", "folder for the suite's output, its JUnit report and the daemon's log; empty: none")
	flag.Parse()
	for _, path := range []*string{&o.critest, &o.crictl, &o.kubelet, &o.shell, &o.bin, &o.deps, &o.out} {
		if *path != "" {
			*path, _ = filepath.Abs(*path)
		}
	}
	if o.critest == "" && o.crictl == "" && o.kubelet == "" || o.floor != "privileged" && o.floor != "default" {
		fmt.Fprintln(os.Stderr, "conformance: want -critest, -crictl or -kubelet, and -floor privileged or default")
		os.Exit(2)
	}
	os.Exit(node.Isolate(func(scratch string) int {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		ctx, cancel := context.WithTimeout(ctx, time.Hour)
		defer cancel()
		bad, err := run(ctx, o, scratch)
		if err != nil {
			fmt.Fprintln(os.Stderr, "conformance:", err)
			return 2
		}
		return min(bad, 1)
	}))
}

// run returns how many specs and verbs failed that were not expected to.
func run(ctx context.Context, o options, scratch string) (failed int, err error) {
	if o.kubelet != "" {
		return kubelet(ctx, o, scratch)
	}
	server := sigkit.NewRegistry(sigkit.FallbackTag)
	defer server.Close()
	host := sigkit.Host(server)
	if err := publish(host, o); err != nil {
		return 0, err
	}
	n, err := start(ctx, o, scratch, host)
	if err != nil {
		return 0, err
	}
	if o.critest != "" {
		bad, err := suite(ctx, o, n)
		if err != nil {
			return 0, fmt.Errorf("%w; the daemon's log ends:\n%s", err, n.LogTail(10))
		}
		failed += bad
	}
	if o.crictl != "" {
		failed += verbs(ctx, o, n)
	}
	return failed, n.StopDaemon()
}

// start runs a node that takes the suite's registries to be at host.
func start(ctx context.Context, o options, scratch, host string) (*node.Node, error) {
	policy, err := policyFiles(o.floor)
	if err != nil {
		return nil, err
	}
	text := "unqualified-search-registries = []\n"
	for _, prefix := range registries {
		text += fmt.Sprintf("[[registry]]\nprefix = %q\nlocation = %q\ninsecure = true\n", prefix, host+"/"+prefix)
	}
	conf := filepath.Join(scratch, "suite-registries.conf")
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	n := node.Options{
		Scratch: scratch, Bin: o.bin, Deps: o.deps, Policy: policy, Masq: true,
		Config: fmt.Sprintf("[image]\nregistries_conf = %q\n[nri]\nplugins = [\"??-cri-test-nri-*\"]\nsocket = %q\nplugin_dir = \"\"\n", conf, filepath.Join(scratch, "nri.sock")),
	}
	if o.out != "" {
		if err := os.MkdirAll(o.out, 0o755); err != nil {
			return nil, err
		}
		if n.Log, err = os.Create(filepath.Join(o.out, "daemon.log")); err != nil {
			return nil, err
		}
	}
	return node.New(ctx, n)
}

// policyFiles are the files of policy/, by their paths below it. Floor default leaves hardening.yaml
// out, so that the product's own floor holds.
func policyFiles(floor string) (map[string]string, error) {
	files := map[string]string{}
	err := fs.WalkDir(policies, "policy", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || floor == "default" && d.Name() == "hardening.yaml" {
			return err
		}
		data, err := policies.ReadFile(path)
		files[strings.TrimPrefix(path, "policy/")] = string(data)
		return err
	})
	return files, err
}
