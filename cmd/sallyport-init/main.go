// Command sallyport-init is a tiny static program with two jobs, both of which need a process of their
// own. "pins" is born in new namespaces, prepares them (loopback, hostname, sysctls), says so and waits
// while the daemon pins them as files. "pause" is the first process of a pod that shares a PID
// namespace: it reaps, and exits when asked to. It imports no more than both need, so that it is up in
// about a millisecond.
package main

import "os"

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "pins":
			os.Exit(pins(os.Args[2:], os.Stdin, os.Stdout))
		case "pause":
			os.Exit(pause())
		}
	}
	os.Stderr.WriteString("usage: sallyport-init pins [lo] [hostname=NAME] [sysctl=PATH=VALUE]... | pause\n")
	os.Exit(2)
}
