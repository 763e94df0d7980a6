// Command demo shows Sallyport on real parts: it starts a registry and the daemon in namespaces of
// their own, signs images, and shows that what must run runs hardened and that what must be refused is
// refused, with reasons. Each step prints what was expected and what happened; it exits 0 only if all
// agree, and leaves nothing behind.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"sallyport/test/node"
	"sallyport/test/sigkit"
)

// registryHost is in the demo's own network namespace.
const registryHost = "127.0.0.1:5000"

// release is who may sign Acme's images; mallory may not.
var (
	release = sigkit.Identity{SAN: "https://github.com/acme/pay/.github/workflows/release.yml@refs/heads/main", Issuer: "https://token.actions.githubusercontent.com"}
	mallory = sigkit.Identity{SAN: "mallory@evil.example", Issuer: "https://accounts.evil.example"}
)

func main() {
	bin := flag.String("bin", "bin", "folder with sallyportd, sallyport and sallyport-init")
	deps := flag.String("deps", ".deps", "folder with the real components")
	flag.Parse()
	os.Exit(node.Isolate(func(scratch string) int {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
		defer cancel()
		d := &demo{ctx: ctx, scratch: scratch, bin: absolute(*bin), deps: absolute(*deps)}
		if err := d.run(); err != nil {
			fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
			if d.node != nil {
				fmt.Fprintf(os.Stderr, "the daemon's log ends:\n%s\n", d.node.LogTail(15))
			}
			return 1
		}
		if d.failed > 0 {
			fmt.Printf("\n%d of %d steps did not go as expected\n", d.failed, d.steps)
			return 1
		}
		fmt.Printf("\nAll %d steps went as expected.\n", d.steps)
		return 0
	}))
}

func absolute(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	return abs
}

// demo is one run.
type demo struct {
	ctx                context.Context
	scratch, bin, deps string
	node               *node.Node
	kit                *sigkit.Kit
	key                *sigkit.Key
	registry           *exec.Cmd
	steps, failed      int
}

func (d *demo) run() (err error) {
	if d.kit, err = sigkit.New(); err != nil {
		return err
	}
	if d.key, err = sigkit.NewKey(); err != nil {
		return err
	}
	fmt.Println("Starting a registry and sallyportd in namespaces of their own ...")
	if err := d.startRegistry(); err != nil {
		return err
	}
	d.node, err = node.New(d.ctx, node.Options{
		Scratch: d.scratch, Bin: d.bin, Deps: d.deps, Policy: d.policies(), Insecure: []string{registryHost},
	})
	if err != nil {
		return err
	}
	return d.story()
}

// startRegistry runs the distribution project's registry. It serves no referrers API, so signatures
// are found under the fallback tag.
func (d *demo) startRegistry() error {
	config := filepath.Join(d.scratch, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %s}\n",
		filepath.Join(d.scratch, "registry"), registryHost)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	d.registry = exec.CommandContext(d.ctx, filepath.Join(d.deps, "bin", "registry"), "serve", config)
	if err := d.registry.Start(); err != nil {
		return fmt.Errorf("start registry: %w", err)
	}
	client := http.Client{Timeout: time.Second}
	for range 200 {
		if r, err := client.Get("http://" + registryHost + "/v2/"); err == nil {
			r.Body.Close()
			return nil
		}
		time.Sleep(25 * time.Millisecond)
	}
	return fmt.Errorf("the registry does not answer at %s", registryHost)
}

func (d *demo) stopRegistry() {
	_ = d.registry.Process.Kill()
	_ = d.registry.Wait()
}

// step prints one step. want are words that what happened must hold, all of them.
func (d *demo) step(title, expected, happened string, want ...string) {
	d.steps++
	mark := "ok  "
	for _, w := range want {
		if !strings.Contains(happened, w) {
			mark = "FAIL"
			happened += fmt.Sprintf("   [lacks %q]", w)
		}
	}
	if mark == "FAIL" {
		d.failed++
	}
	fmt.Printf("\n%s %2d. %s\n     expected: %s\n     happened: %s\n", mark, d.steps, title, expected,
		strings.ReplaceAll(strings.TrimSpace(happened), "\n", "\n               "))
}

// outcome is an error's text, or done.
func outcome(err error, done string) string {
	if err != nil {
		return err.Error()
	}
	return done
}
