// Package doctor finds on a node what belongs to no record of a pod or container: processes, cgroups,
// namespaces, mounts, layers and addresses. It reads the files that the daemon writes, and lenient: it is for
// nodes on which something is wrong. It knows its own things by the daemon's directories and by IDs of 64
// hexadecimal digits; what another runtime made is never looked at twice.
package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/sandbox/network"
)

// Errors that callers branch on.
var (
	// ErrRunning answers Repair while a daemon runs: it takes back what it left itself, and knows more.
	ErrRunning = errors.New("the daemon runs")
	// ErrLive answers Repair on a node whose records are gone while containers live.
	ErrLive = errors.New("containers of this node live, and their records are not here")
)

// Options are the daemon's directories and its CNI set-up, as its configuration says them.
type Options struct {
	Root       string   // persistent
	State      string   // volatile
	NetNS      string   // where network namespaces are pinned; "" is /var/run/netns
	Cgroups    []string // parents of pods' cgroups; others are not looked at
	CNIConf    string   // directory of CNI configurations
	CNIPlugins []string // directories of CNI plugins
	Timeout    time.Duration
}

// Finding is one thing that belongs to no record, or that is wrong.
type Finding struct {
	Kind      string `json:"kind"`         // process, cgroup, runtime, mount, bundle, pod, exit, netns, attachment, layer, record, state
	ID        string `json:"id,omitempty"` // of the pod or container that it was of; "" if of none
	What      string `json:"what"`         // path, or process
	Advice    string `json:"advice"`       // what to do, or what Repair does
	pid       int    // of a process
	repair    bool   // Repair acts on it
	elsewhere bool   // the records are in another directory
}

// Report is what Examine found.
type Report struct {
	Running  bool      `json:"running"` // a daemon holds the directories; what it is just making may show
	Pods     int       `json:"pods"`    // records
	Ctrs     int       `json:"containers"`
	Findings []Finding `json:"findings"` // in the order in which Repair takes them
}

// node is one look at a node.
type node struct {
	Options
	known  map[string]bool // IDs that a record names
	live   map[string]int  // container ID to a conmon of it that is not of these directories
	report Report
}

// open checks o and takes the daemon's lock, if no daemon has it.
func open(o Options) (*node, *os.File, error) {
	if o.NetNS == "" {
		o.NetNS = "/var/run/netns"
	}
	if o.Timeout <= 0 {
		o.Timeout = time.Minute
	}
	for what, path := range map[string]string{"root": o.Root, "state": o.State} {
		if !filepath.IsAbs(path) {
			return nil, nil, fmt.Errorf("%s directory %q is not an absolute path", what, path)
		}
	}
	n := &node{Options: o, known: map[string]bool{}, live: map[string]int{}}
	lock, err := n.lock()
	if n.report.Running = errors.Is(err, ErrRunning); n.report.Running {
		err = nil
	}
	return n, lock, err
}

// Examine looks. It changes nothing and needs root.
func Examine(o Options) (Report, error) {
	n, lock, err := open(o)
	if err == nil {
		defer lock.Close()
		err = n.look()
	}
	if err != nil {
		return Report{}, fmt.Errorf("examine node: %w", err)
	}
	return n.report, nil
}

// look fills the report.
func (n *node) look() error {
	// Things first and records second: a record is written before the thing, so what is being made is known.
	found, err := n.things()
	if err == nil {
		err = n.records()
	}
	if err != nil {
		return err
	}
	for _, f := range found {
		switch {
		case n.known[f.ID] || !f.there():
		case n.live[f.ID] != 0:
			f.repair, f.Advice = false, fmt.Sprintf("kept: conmon %d runs this container under other directories", n.live[f.ID])
			n.report.Findings = append(n.report.Findings, f)
		default:
			n.report.Findings = append(n.report.Findings, f)
		}
	}
	return n.boot()
}

// there reports whether the thing is still there: its owner may just have removed it.
func (f Finding) there() bool {
	if f.pid != 0 {
		return commandOf(f.pid) != nil
	}
	_, err := os.Lstat(f.What)
	return err == nil
}

// lock takes the daemon's locks (cmd/sallyportd); ErrRunning if it has them. A directory without a lock
// file has no daemon.
func (n *node) lock() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(n.Root, "daemon.lock"), os.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrRunning
		}
		return nil, err
	}
	return f, nil
}

// records reads which pods and containers the daemon knows. A record that cannot be read is a finding, and
// its key stays reserved; a container without its pod is no more than its pieces.
func (n *node) records() error {
	dirs, err := os.ReadDir(n.state("keys"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	type part struct {
		ID        string          `json:"id"`
		Pod       json.RawMessage `json:"pod"`
		Container *struct {
			PodID string `json:"podID"`
		} `json:"container"`
	}
	ctrs := map[string]part{} // by path
	for _, d := range dirs {
		path := n.state("keys", d.Name(), "record.json")
		data, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // reserved; the daemon frees it
		}
		var r part
		if err == nil {
			err = json.Unmarshal(data, &r)
		}
		switch {
		case err != nil || !isID(r.ID):
			n.add(Finding{Kind: "record", What: path, Advice: "it cannot be read, and no daemon starts beside it; move its directory away and look again"})
		case r.Container != nil:
			ctrs[path] = r
		default:
			n.known[r.ID] = true
			n.report.Pods++
		}
	}
	for path, r := range ctrs {
		if !n.known[r.Container.PodID] {
			n.add(Finding{Kind: "record", ID: r.ID, What: filepath.Dir(path), Advice: "removed: its pod has no record, and no daemon starts beside it", repair: true})
			continue
		}
		n.known[r.ID] = true
		n.report.Ctrs++
	}
	return nil
}

// boot looks whether the records are of this boot, and says what to do where they are gone.
func (n *node) boot() error {
	kernel, err := word("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	kept, err := word(filepath.Join(n.Root, "boot-id"))
	if err != nil {
		return err
	}
	here, err := word(n.state("boot-id"))
	if err != nil {
		return err
	}
	switch {
	case kept == kernel && here != kernel && len(n.live) == 0:
		n.add(Finding{Kind: "state", What: filepath.Join(n.Root, "boot-id"), repair: true,
			Advice: fmt.Sprintf("removed, so that a daemon starts anew: it says that pods were made since the node booted, %s has no record of them, and none of their containers lives", n.State)})
	case kept == kernel && here != kernel:
		var dirs []string
		for _, pid := range n.live {
			if dir := stateOf(commandOf(pid)); dir != "" && !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
		}
		slices.Sort(dirs)
		n.add(Finding{Kind: "state", What: n.State, elsewhere: true, Advice: fmt.Sprintf("it has no records of this boot, and %d containers live whose records were in %s: set \"state\" to that directory, or mount it again", len(n.live), strings.Join(dirs, ", "))})
	case here != "" && here != kernel:
		n.add(Finding{Kind: "state", What: n.State, Advice: "it is of an earlier boot; the daemon removes it when it starts"})
	}
	return nil
}

func (n *node) add(f Finding) { n.report.Findings = append(n.report.Findings, f) }

func (n *node) state(elem ...string) string {
	return filepath.Join(append([]string{n.State, "sandbox"}, elem...)...)
}

// Repair removes what Examine found, in its order, and returns what could not be removed. It refuses with
// ErrRunning beside a daemon, and with ErrLive where containers live whose records are elsewhere.
func Repair(ctx context.Context, o Options) (removed []Finding, err error) {
	n, lock, err := open(o)
	if err == nil {
		defer lock.Close() // held all the time: no daemon starts meanwhile
		err = n.look()
	}
	if err == nil && n.report.Running {
		err = ErrRunning
	}
	if err != nil {
		return nil, fmt.Errorf("repair node: %w", err)
	}
	if slices.ContainsFunc(n.report.Findings, func(f Finding) bool { return f.elsewhere }) {
		return nil, fmt.Errorf("repair node: %w; see \"sallyport doctor\"", ErrLive)
	}
	var errs []error
	for _, f := range n.report.Findings {
		if !f.repair {
			continue
		}
		if err := n.remove(ctx, f); err != nil {
			errs = append(errs, fmt.Errorf("remove %s %s: %w", f.Kind, f.What, err))
			continue
		}
		removed = append(removed, f)
	}
	return removed, errors.Join(errs...)
}

// remove takes one finding away. Directories are removed only when nothing is mounted in them.
func (o Options) remove(ctx context.Context, f Finding) error {
	switch f.Kind {
	case "process":
		return kill(f)
	case "cgroup":
		return emptyCgroup(f.What)
	case "mount":
		err := unix.Unmount(f.What, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // it went with a mount that it was a copy of
			return nil
		}
		return err
	case "netns":
		return gone(os.Remove(f.What)) // its mount went before
	case "attachment":
		return o.detach(ctx, f.ID)
	case "exit", "state":
		return gone(os.Remove(f.What))
	default:
		if at := mountsBelow(f.What); len(at) > 0 {
			return fmt.Errorf("%s is still mounted", at[0])
		}
		return os.RemoveAll(f.What)
	}
}

// detach has the CNI plugins give a pod's address back, from what the attachment remembers.
func (o Options) detach(ctx context.Context, podID string) error {
	boot, err := word("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	cni, err := network.New(network.Options{ConfDir: o.CNIConf, BinDirs: o.CNIPlugins, CacheDir: filepath.Join(o.Root, "cni"), BootID: boot, Timeout: o.Timeout})
	if err != nil {
		return err
	}
	return cni.Detach(ctx, podID)
}

func gone(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// word reads a file of one word; "" if there is none.
func word(path string) (string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(data)), err
}

// isID reports whether s is an ID of ours: 64 hexadecimal digits.
func isID(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
