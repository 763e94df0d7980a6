package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"sallyport/policy/bundle"
	"sallyport/policy/rego/confine"
	"sallyport/test/sigkit"
)

// namespaces is for how many of them the design holds (architecture.md, Scale).
const namespaces = 1000

// scale measures what many namespaces and many scopes cost: policy of 1,000 namespaces, each with keyless
// requirements, a root of its own and Rego in the confined child, and a verdict beside 10 and 2,000 scopes.
func (b *bench) scale() error {
	dir := filepath.Join(b.scratch, "scale")
	put := func(name, text string) error {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		return os.WriteFile(at, []byte(text), 0o644)
	}
	strict := b.strict()
	for name, text := range strict {
		if err := put(name, text); err != nil {
			return err
		}
	}
	for i := range namespaces {
		for name, text := range map[string]string{
			"bundle.yaml":       "name: team\nrevision: 1\nrego: [sallyport.run]\n",
			"requirements.yaml": strict["node/requirements.yaml"],
			"trusted_root.json": strict["node/trusted_root.json"],
			"rego/run.rego":     fmt.Sprintf("package sallyport.run\n\ndeny contains {\"rule\": \"team-%d\", \"msg\": \"privileged\"} if input.container.privileged\n", i),
		} {
			if err := put(fmt.Sprintf("namespaces/team-%d/%s", i, name), text); err != nil {
				return err
			}
		}
	}
	child := confine.New(confine.Options{Program: "/proc/self/exe", Log: slog.New(slog.DiscardHandler)})
	defer child.Close()
	before := heap()
	var set *bundle.Set
	took, err := timed(func() (err error) {
		set, err = bundle.Read(bundle.Options{Root: dir, Confine: child.Compile, Later: child.Later})
		return err
	})
	if err != nil {
		return err
	}
	if n := len(set.Namespaces()); n != namespaces || len(set.Problems()) > 0 {
		return fmt.Errorf("loaded %d namespaces, %v", n, set.Problems())
	}
	b.value("policy of 1,000 namespaces: load", "ms", "", float64(took.Microseconds())/1000)
	b.value("  memory that it keeps", "MiB", "", float64(heap()-before)/(1<<20))
	if err := put("namespaces/team-7/bundle.yaml", "name: team\nrevision: 2\nrego: [sallyport.run]\n"); err != nil {
		return err
	}
	took, err = timed(func() (err error) {
		set, err = bundle.Read(bundle.Options{Root: dir, Prev: set, Confine: child.Compile, Later: child.Later})
		return err
	})
	if err != nil {
		return err
	}
	b.value("  reading it again after one changed (nothing waits for it)", "ms", "", float64(took.Microseconds())/1000)
	runtime.KeepAlive(set)
	return b.scopes(put, dir)
}

// scopes compares a warm and a cold verdict beside few and many policies about other images.
func (b *bench) scopes(put func(name, text string) error, dir string) error {
	req, err := b.pullRequest()
	if err != nil {
		return err
	}
	strict := b.strict()
	signer, err := sigkit.NewKey()
	if err != nil {
		return err
	}
	key := base64.StdEncoding.EncodeToString(signer.PEM())
	for _, n := range []int{10, 2000} {
		var text, scopes strings.Builder
		text.WriteString(strict["node/requirements.yaml"])
		for i := range n {
			fmt.Fprintf(&text, "- name: team-%d\n  images: [{glob: \"registry.example/team-%d/**\"}]\n  authorities: [{static: {action: fail}}]\n", i, i)
			fmt.Fprintf(&scopes, ", \"registry.example/team-%d\": [{\"type\": \"sigstoreSigned\", \"keyData\": %q}]", i, key)
		}
		sub := fmt.Sprintf("scopes-%d/", n)
		for name, text := range map[string]string{
			"node/bundle.yaml": strict["node/bundle.yaml"], "node/trusted_root.json": strict["node/trusted_root.json"], "node/requirements.yaml": text.String(),
			"node/policy.json": `{"default": [{"type": "reject"}], "transports": {"docker": {"` + req.Image.Name.Host() + `": [{"type": "insecureAcceptAnything"}]` + scopes.String() + `}}}`,
		} {
			if err := put(sub+name, text); err != nil {
				return err
			}
		}
		set, err := bundle.Load(filepath.Join(dir, sub))
		if err != nil {
			return err
		}
		const rounds = 200
		start := cpu()
		for range rounds {
			if v := set.Node().JudgeImage(context.Background(), req.Image, req.Evidence, time.Now()); !v.Allowed() {
				return fmt.Errorf("verdict beside %d scopes: %v", n, v.Hits())
			}
		}
		b.value(fmt.Sprintf("image verdict, cold, requirements.yaml and policy.json of %d scopes: processor", n), "us", "", float64((cpu()-start).Microseconds())/rounds)
	}
	return nil
}

// cpu is the processor time that this process has used.
func cpu() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// heap is the memory that is reachable now, in bytes.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
