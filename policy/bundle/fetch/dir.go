// Package fetch brings policy to policy/bundle: it notices what changes in a directory, and it brings
// bundles and their signatures from a registry into a staging directory. It decides nothing: what it
// brings is untrusted until policy/bundle has verified it.
package fetch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// quiet is how long nothing may happen in a directory before it is looked at: writers write several
// files. rounds bounds how often that wait starts again, so that a busy writer cannot hold it off.
const (
	quiet  = 300 * time.Millisecond
	rounds = 20
)

// maxWatched bounds the directories that are watched: 1,000 bundles as OCI layouts have four each.
const maxWatched = 8192

// Dir watches a directory tree.
type Dir struct {
	Path string        // constant; need not exist yet
	Poll time.Duration // constant; how often it is compared whatever inotify says, and the pace without inotify
	Log  *slog.Logger  // constant
	// Since is the state of the tree that the caller has read already; zero: as it is when Run begins.
	Since State // constant
}

// State tells two states of a tree apart.
type State [sha256.Size]byte

// Run calls changed, one call at a time, after something in the tree changed, until ctx ends. Changes
// are noticed by inotify, or where that has run out, by comparing names, sizes and times every Poll; a
// change that inotify loses is found at the next comparison.
func (d Dir) Run(ctx context.Context, changed func(context.Context)) error {
	seen := d.Since
	if seen == (State{}) {
		seen = StateOf(d.Path)
	}
	told := false
	for ctx.Err() == nil {
		w, err := d.watch()
		if err != nil && !told {
			told = true
			d.Log.Warn("policy directory is polled, changes are noticed late", "dir", d.Path, "every", d.Poll, "err", err)
		}
		d.wait(ctx, w, seen)
		if w != nil {
			w.Close()
		}
		if now := StateOf(d.Path); now != seen && ctx.Err() == nil {
			seen = now
			changed(ctx)
		}
	}
	return nil
}

// watch watches every directory of the tree; an error means that polling must do. The caller closes it.
func (d Dir) watch() (*fsnotify.Watcher, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", d.Path, err)
	}
	n := 0
	err = filepath.WalkDir(d.Path, func(at string, e fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) && at != d.Path {
				return nil // gone meanwhile
			}
			return err
		}
		if !e.IsDir() {
			return nil
		}
		if n++; n > maxWatched {
			return fmt.Errorf("more than %d directories", maxWatched)
		}
		if err := w.Add(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("watch %s: %w", d.Path, err)
	}
	return w, nil
}

// wait returns when it is time to compare: after an event and the quiet that follows it, or Poll. What
// changed before the watch stood is seen at once.
func (d Dir) wait(ctx context.Context, w *fsnotify.Watcher, seen State) {
	tick := time.NewTimer(d.Poll)
	defer tick.Stop()
	if w == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		return
	}
	if StateOf(d.Path) == seen {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			return
		case <-w.Events:
		case <-w.Errors: // a queue that overflowed has lost events
		}
	}
	for range rounds {
		select {
		case <-ctx.Done():
			return
		case <-w.Events:
		case <-w.Errors:
		case <-time.After(quiet):
			return
		}
	}
}

// StateOf is the state of the tree at root by what the kernel says of its files. A change that keeps
// inode, size and both times is not seen; nobody makes one by accident.
func StateOf(root string) (sum State) {
	h := sha256.New()
	_ = filepath.WalkDir(root, func(at string, _ fs.DirEntry, err error) error {
		if err != nil {
			fmt.Fprintf(h, "%q gone\n", at)
			return nil
		}
		info, err := os.Stat(at) // behind a link: a ConfigMap swaps one
		if err != nil {
			fmt.Fprintf(h, "%q gone\n", at)
			return nil
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		fmt.Fprintf(h, "%q %d %d %o %d %d %d\n", at, st.Dev, st.Ino, st.Mode, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
		return nil
	})
	h.Sum(sum[:0])
	return sum
}
