package registry

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
)

const (
	lookEvery = 30 * time.Second       // whatever inotify says: it does not see through links, nor what is yet to be made
	quiet     = 300 * time.Millisecond // writers write several files
	rounds    = 20                     // of quiet that a busy writer can ask for
)

// Watch takes over changes of the node's settings until ctx ends, at once by inotify and in any case at the
// next look. It needs Options.Copies; without it files are read as they lie and there is nothing to do.
func (s *Registries) Watch(ctx context.Context, log *slog.Logger) error {
	if s.o.Copies == "" {
		return nil
	}
	for _, p := range s.Problems() {
		log.Warn("registry settings are broken", "problem", p)
	}
	for ctx.Err() == nil {
		w := s.watch()
		s.wait(ctx, w)
		if w != nil {
			w.Close()
		}
		if ctx.Err() != nil {
			return nil
		}
		changed, err := s.Reload()
		if err != nil {
			log.Warn("reload registry settings", "err", err)
		} else if changed {
			log.Info("registry settings changed")
			for _, p := range s.Problems() {
				log.Warn("registry settings are broken, what was there before stays in force", "problem", p)
			}
		}
	}
	return nil
}

// watch watches the directories that exist; nil means that looking must do. The caller closes it.
func (s *Registries) watch() *fsnotify.Watcher {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil
	}
	dirs := []string{s.o.ConfDir, s.o.CertsDir, s.o.NamespaceAuthDir}
	for _, file := range []string{s.o.Conf, s.o.AuthFile} {
		if file != "" {
			dirs = append(dirs, filepath.Dir(file))
		}
	}
	if s.o.CertsDir != "" {
		hosts, _ := filepath.Glob(filepath.Join(s.o.CertsDir, "*"))
		dirs = append(dirs, hosts...)
	}
	for _, dir := range dirs {
		if dir != "" {
			_ = w.Add(dir) // it may not exist
		}
	}
	return w
}

// wait returns when it is time to look. What changed before the watch stood is seen by the look that
// follows every watch but the first, and that one by lookEvery.
func (s *Registries) wait(ctx context.Context, w *fsnotify.Watcher) {
	tick := time.NewTimer(lookEvery)
	defer tick.Stop()
	if w == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		return
	}
	if readSettings(s.o).sum() == s.read() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			return
		case <-w.Events:
		case <-w.Errors:
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

// read is the state that was read last.
func (s *Registries) read() [32]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sum
}

// Reload takes over what changed and reports whether anything did. What is broken stays as it was before,
// and Problems names it. An error means that nothing was taken over.
func (s *Registries) Reload() (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := readSettings(s.o)
	sum := r.sum()
	old := s.now.Load()
	if old != nil && sum == s.sum {
		return false, nil
	}
	s.count++
	dir := filepath.Join(s.o.Copies, fmt.Sprint(s.count))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, err
	}
	next, broken, err := r.takeOver(s.o, dir, old)
	if err == nil && old == nil && broken[unitConf] != nil {
		err = broken[unitConf] // mirrors and blocks are not guessed
	}
	if err != nil {
		os.RemoveAll(dir)
		return false, err
	}
	s.sum, s.problems = sum, nil
	for _, unit := range slices.Sorted(maps.Keys(broken)) {
		s.problems = append(s.problems, oneLine(broken[unit].Error()))
	}
	s.now.Store(next)
	sysregistriesv2.InvalidateCache() // it is by path, for ever
	os.RemoveAll(s.older)             // the one before may still be in use
	s.older = ""
	if old != nil {
		s.older = old.dir
	}
	return true, nil
}

// Problems are the settings that are broken, one line each; what was there before is in force for them.
func (s *Registries) Problems() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.problems)
}
