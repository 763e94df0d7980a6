package stats

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Interface is a network interface's counts since it was made.
type Interface struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// Network reads the interfaces, except loopback, of the network namespace pinned at path. No process has
// to be in it: a thread of ours enters it for as long as it takes to open one file.
func Network(path string) ([]Interface, error) {
	type answer struct {
		text string
		err  error
	}
	done := make(chan answer, 1)
	go func() { // its thread dies with it if it cannot return to our namespace
		runtime.LockOSThread()
		text, back, err := netDev(path)
		if back {
			runtime.UnlockOSThread()
		}
		done <- answer{text, err}
	}()
	a := <-done
	if a.err != nil {
		return nil, fmt.Errorf("read interfaces of %s: %w", path, a.err)
	}
	return interfaces(a.text)
}

// netDev reads /proc/net/dev of the namespace at path on the calling thread, and tells whether the thread
// is where it was.
func netDev(path string) (text string, back bool, err error) {
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", true, err
	}
	defer unix.Close(home)
	there, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", true, err
	}
	defer unix.Close(there)
	if err := unix.Setns(there, unix.CLONE_NEWNET); err != nil {
		return "", true, err
	}
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	data, err := buf.read("/proc/thread-self/net/dev")
	text = string(data)
	if home := unix.Setns(home, unix.CLONE_NEWNET); home != nil {
		return "", false, home
	}
	return text, true, err
}

// interfaces reads proc_net_dev(5): after the name, eight received and eight sent counts.
func interfaces(text string) ([]Interface, error) {
	var all []Interface
	for line := range strings.Lines(text) {
		name, counts, ok := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		if !ok || name == "lo" {
			continue
		}
		columns := strings.Fields(counts)
		if len(columns) < 16 {
			return nil, fmt.Errorf("read interface %q: %d columns, want 16", name, len(columns))
		}
		i := Interface{Name: name}
		for column, to := range []*uint64{&i.RxBytes, &i.RxPackets, &i.RxErrors, &i.RxDropped, 8: &i.TxBytes, &i.TxPackets, &i.TxErrors, &i.TxDropped, 15: nil} {
			if to == nil {
				continue
			}
			n, err := strconv.ParseUint(columns[column], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("read interface %q: %w", name, err)
			}
			*to = n
		}
		all = append(all, i)
	}
	return all, nil
}
