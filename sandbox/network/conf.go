package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/fsnotify/fsnotify"
)

const (
	maxConf  = 1 << 20                // bytes of a configuration file
	pollWait = 5 * time.Second        // between looks at the directory, also while it is watched
	settle   = 100 * time.Millisecond // a file that is being written is read after the last event
)

// loaded is a configuration in use, or why there is none. It is immutable.
type loaded struct {
	list    *libcni.NetworkConfigList // nil if there never was a good one
	mark    string                    // of the directory when it was read
	problem error                     // of the latest read; list is then the last good one
}

// Run follows the configuration directory until ctx ends, by inotify and by a look every pollWait: the
// node may be out of inotify instances, and the directory may be replaced. It returns ctx's error.
func (c *CNI) Run(ctx context.Context) error {
	var events chan fsnotify.Event
	var faults chan error // such as a queue that overflowed: a look finds what the event would have said
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		defer watcher.Close()
		events, faults = watcher.Events, watcher.Errors
	} else {
		c.o.Log.Warn("watch CNI configuration: changes are seen by polling only", "every", pollWait, "cause", err)
	}
	look := time.NewTimer(0)
	defer look.Stop()
	told := ""
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-events:
			look.Reset(settle)
		case <-faults:
			look.Reset(settle)
		case <-look.C:
			if watcher != nil && len(watcher.WatchList()) == 0 {
				watcher.Add(c.o.ConfDir) // not there yet is no fault
			}
			if now := c.load().String(); now != told {
				c.o.Log.Info("CNI configuration", "network", now)
				told = now
			}
			look.Reset(pollWait)
		}
	}
}

// String is the network's name, or what is wrong.
func (l *loaded) String() string {
	switch {
	case l.list == nil:
		return "none: " + l.problem.Error()
	case l.problem != nil:
		return l.list.Name + ", still: " + l.problem.Error()
	}
	return l.list.Name
}

// ready returns the configuration in use. Where there is none it looks once more, since its caller
// would fail otherwise.
func (c *CNI) ready() (*loaded, error) {
	conf := c.conf.Load()
	if conf == nil || conf.list == nil {
		conf = c.load()
	}
	if conf.list == nil {
		return nil, fmt.Errorf("%w: %w", ErrNoNetwork, conf.problem)
	}
	return conf, nil
}

// Problem returns what is wrong with the configuration on disk while an older one is still in use, or
// nil.
func (c *CNI) Problem() error {
	if conf := c.conf.Load(); conf != nil {
		return conf.problem
	}
	return nil
}

// load reads the directory if it changed. A directory without any configuration means no network: that is
// how an operator takes it away. A broken file means the last good network: plugins' installers write in
// place, and a pod must not land on the next file's network meanwhile.
func (c *CNI) load() *loaded {
	old := c.conf.Load()
	mark, files, err := survey(c.o.ConfDir)
	if old != nil && err == nil && mark == old.mark {
		return old
	}
	next := &loaded{mark: mark, problem: err}
	switch {
	case err != nil:
	case len(files) == 0:
		next.problem = fmt.Errorf("no configuration in %s", c.o.ConfDir)
		old = nil
	default:
		next.list, next.problem = read(files[0])
	}
	if next.problem != nil && old != nil {
		next.list = old.list
	}
	c.conf.Store(next)
	return next
}

// survey lists the configuration files of dir in byte order, and makes a mark that changes with them.
func survey(dir string) (mark string, files []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", nil, fmt.Errorf("read CNI configuration: %w", err)
	}
	var b strings.Builder
	for _, e := range entries { // ReadDir sorts
		path := filepath.Join(dir, e.Name())
		st, err := os.Stat(path)
		if err != nil {
			continue // removed just now
		}
		fmt.Fprintf(&b, "%s %d %d\n", e.Name(), st.Size(), st.ModTime().UnixNano())
		if st.Mode().IsRegular() && slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(path)) {
			files = append(files, path)
		}
	}
	return b.String(), files, nil
}

// read parses one file: a list, or a single plugin as older installers write it.
func read(path string) (*libcni.NetworkConfigList, error) {
	if st, err := os.Stat(path); err == nil && st.Size() > maxConf {
		return nil, fmt.Errorf("read CNI configuration %s: larger than %d bytes", path, maxConf)
	}
	list, err := parse(path)
	if err != nil {
		return nil, fmt.Errorf("read CNI configuration %s: %s", path, flat(err.Error()))
	}
	for i, p := range list.Plugins {
		if p.Network.Type == "" {
			return nil, fmt.Errorf("read CNI configuration %s: plugin %d has no type", path, i+1)
		}
	}
	return list, nil
}

func parse(path string) (*libcni.NetworkConfigList, error) {
	if filepath.Ext(path) == ".conflist" {
		return libcni.NetworkConfFromFile(path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	plugin, err := libcni.NetworkPluginConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	return libcni.ConfListFromConf(plugin)
}

// missing names the first plugin that the configuration needs and no directory has.
func (l *loaded) missing(dirs []string) error {
	for _, p := range l.list.Plugins {
		for _, name := range []string{p.Network.Type, p.Network.IPAM.Type} {
			if name == "" {
				continue
			}
			if _, err := invoke.FindInPath(name, dirs); err != nil {
				return fmt.Errorf("network %q: CNI plugin %q is not in %s", l.list.Name, name, strings.Join(dirs, ", "))
			}
		}
	}
	return nil
}
