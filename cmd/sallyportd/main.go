// Sallyportd is the daemon: it reads the configuration, wires the rooms, and serves CRI v1 on a Unix
// socket until SIGTERM. Containers outlive it. It is the only program that makes a gate.
//
//	sallyportd [--config FILE]              serve
//	sallyportd config                       print the commented default configuration
//	sallyportd config check [FILE]          check the configuration and this machine
//	sallyportd version
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"go.podman.io/storage/pkg/reexec"

	"sallyport/internal/config"
	"sallyport/policy/rego/confine"
)

// version is set by the linker for a release (Makefile).
var version = "0.2.0-dev"

func main() {
	confine.Init()     // the rules of namespaces run in a child of this very program
	if reexec.Init() { // containers/storage applies layers in a child of this very program
		return
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its exit code: 0 done, 1 it went wrong, 2 it was called wrongly.
func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("sallyportd", flag.ContinueOnError)
	flags.SetOutput(stderr)
	file := flags.String("config", config.Path, "configuration file; drop-ins are read from FILE.d")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	switch words := flags.Args(); {
	case len(words) == 0:
		return exit(stderr, serveUntilSignal(*file))
	case words[0] == "version" && len(words) == 1:
		fmt.Fprintln(stdout, "sallyportd", version)
		return 0
	case words[0] == "config" && len(words) == 1:
		fmt.Fprint(stdout, config.TOML())
		return 0
	case words[0] == "config" && words[1] == "check" && len(words) <= 3:
		if len(words) == 3 {
			*file = words[2]
			if _, err := os.Stat(*file); err != nil {
				return exit(stderr, fmt.Errorf("read configuration: %w", err))
			}
		}
		return exit(stderr, checkConfig(*file, stdout))
	default:
		fmt.Fprintf(stderr, "sallyportd: unknown command %q; run \"sallyportd --help\"\n", words)
		return 2
	}
}

func exit(stderr io.Writer, err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "sallyportd:", err)
	return 1
}

// loadConfig reads, checks and resolves the configuration; the error names every problem, one a line.
func loadConfig(file string) (config.Config, error) {
	c, err := config.Load(file)
	if err != nil {
		return config.Config{}, err
	}
	problems := config.Check(c)
	if len(problems) == 0 {
		c, problems = config.Resolve(c)
	}
	var errs []error
	for _, p := range problems {
		errs = append(errs, fmt.Errorf("check configuration: %w", p))
	}
	return c, errors.Join(errs...)
}

func checkConfig(file string, stdout io.Writer) error {
	c, err := loadConfig(file)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "configuration is fine: root %s, socket %s, runtime %s (%s)\n",
		c.Root, c.CRI.Socket, c.Runtime.Default, c.Runtime.Handlers[c.Runtime.Default].Path)
	return nil
}

func serveUntilSignal(file string) error {
	scrubEnvironment()
	c, err := loadConfig(file)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return serve(ctx, c)
}
