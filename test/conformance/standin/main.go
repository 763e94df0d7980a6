// Command standin is the program in the images that stand in for the validation suite's own, which are
// not to be had without the network. It does what the suite looks at and nothing more, by the name that
// it is called by: nginx (a master process title, a PID file, a page), httpd (a page, a line of log),
// nonewprivs (set user ID: the effective user ID) and ipcs (the shared memory segments).
package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	title   = "nginx: master process nginx -g daemon off;"
	pidFile = "/var/run/nginx.pid"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "standin:", err)
		os.Exit(1)
	}
}

func run() error {
	port := flag.String("p", "80", "port to listen on")
	flag.String("g", "", "ignored")
	flag.Bool("m", true, "ignored: shared memory is all that ipcs shows")
	flag.Parse()
	switch name := filepath.Base(os.Args[0]); {
	case os.Args[0] == title:
		if err := os.WriteFile(pidFile, fmt.Appendf(nil, "%d\n", os.Getpid()), 0o644); err != nil {
			return err
		}
		return serve(*port, "Welcome to nginx!")
	case name == "nginx":
		return syscall.Exec("/bin/nginx", []string{title, "-p", *port}, os.Environ())
	case name == "httpd":
		fmt.Fprintln(os.Stderr, "httpd: resuming normal operations")
		return serve(*port, "It works!")
	case name == "nonewprivs":
		fmt.Printf("Effective uid: %d\n", os.Geteuid())
		return nil
	case name == "ipcs":
		table, err := os.ReadFile("/proc/sysvipc/shm")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(table)) {
			if fields := strings.Fields(line); len(fields) > 1 {
				fmt.Println(fields[0], fields[1]) // key and ID
			}
		}
		return nil
	default:
		return fmt.Errorf("called by an unknown name %q", name)
	}
}

func serve(port, page string) error {
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "<html><body><h1>"+page+"</h1></body></html>\n")
	}))
}
