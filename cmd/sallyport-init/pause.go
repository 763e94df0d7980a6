package main

import (
	"os"
	"os/signal"
	"syscall"
)

// pause reaps until SIGTERM or SIGINT, and then returns 0. As the first process of a PID namespace it
// inherits every orphan of the pod, and its exit ends them all.
func pause() int {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGTERM, syscall.SIGINT)
	reap() // children that died before the handler was there
	for s := range signals {
		if s != syscall.SIGCHLD {
			return 0
		}
		reap()
	}
	return 1
}

// reap takes every child that has exited. One SIGCHLD may stand for many, so it asks until none is left.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if pid <= 0 || err != nil {
			return
		}
	}
}
