package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestLogLinksAreNotFollowed: a tenant who can write to the log directory and swaps the log, or the file
// that the monitor makes beside it, for a link at any moment makes the node write nowhere else.
func TestLogLinksAreNotFollowed(t *testing.T) {
	n := newNode(t)
	dir := t.TempDir()
	cfg := podConfig("a")
	cfg.LogDirectory = filepath.Join(dir, "logs")
	canary := filepath.Join(dir, "canary")
	must(t, os.MkdirAll(filepath.Join(dir, "logs/a"), 0o755))
	must(t, os.WriteFile(canary, []byte("whole"), 0o644))
	p := n.pod(cfg)
	log := filepath.Join(cfg.LogDirectory, "a/0.log")
	stop, gone := make(chan struct{}), make(chan struct{})
	go func() { // the attacker: a link at most moments
		defer close(gone)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, name := range []string{log, log + ".tmp"} {
				os.Remove(name)
				os.Symlink(canary, name)
				time.Sleep(50 * time.Microsecond)
				os.Remove(name)
			}
			time.Sleep(100 * time.Microsecond)
		}
	}()
	made := 0
	for i := range 25 {
		c := script(fmt.Sprint("app", i), "echo stolen; sleep 1000")
		c.LogPath = "a/0.log"
		ctr, err := n.create(p, c)
		if err != nil {
			continue // met a link
		}
		made++
		if err := ctr.Start(t.Context()); err != nil {
			t.Error(err)
		}
		ctr.ReopenLog(t.Context()) // may fail, or end the monitor
		must(t, ctr.Stop(t.Context(), 0))
		must(t, ctr.Remove(t.Context()))
	}
	close(stop)
	<-gone
	if data, err := os.ReadFile(canary); err != nil || string(data) != "whole" {
		t.Errorf("the canary = %q, %v: a log was written through a link (%d containers)", data, err, made)
	}
	t.Logf("%d of 25 containers were made", made)
}
