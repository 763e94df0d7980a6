package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"sallyport/internal/durable"
	"sallyport/internal/failpoint"
	"sallyport/sandbox/internal/hostmount"
	"sallyport/sandbox/spec"
)

const (
	shmSize      = 64 << 20 // as every runtime gives
	maxResolv    = 1 << 20  // of the node's resolv.conf
	maxDNSOption = 253      // a domain name; options are shorter
)

// makeFiles makes the pod's directory with resolv.conf, hostname and shm.
func (p *Pod) makeFiles() error {
	for _, dir := range []string{p.dir(), filepath.Join(p.dir(), "ns")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("make pod directory: %w", err)
		}
	}
	failpoint.Hit("pod-directory")
	if err := p.letIn(p.dir()); err != nil {
		return err
	}
	resolv, err := resolvConf(p.cfg.DNS)
	if err != nil {
		return err
	}
	hostname, err := p.hostname()
	if err != nil {
		return err
	}
	// Containers read these as any user, so the directory is closed and the files are open.
	if err := durable.Replace(p.resolvPath(), resolv, 0o644); err != nil {
		return err
	}
	if err := durable.Replace(p.hostnamePath(), []byte(hostname+"\n"), 0o644); err != nil {
		return err
	}
	uid, gid := p.root()
	for _, path := range []string{p.resolvPath(), p.hostnamePath()} {
		if err := os.Chown(path, uid, gid); err != nil {
			return fmt.Errorf("give file to the pod: %w", err)
		}
	}
	if p.cfg.Security.Namespaces.IPC == spec.NamespaceNode {
		return nil // the node's /dev/shm
	}
	if err := os.Mkdir(p.shmPath(), 0o700); err != nil {
		return fmt.Errorf("make shm: %w", err)
	}
	size := p.cfg.ShmSize
	if size <= 0 {
		size = shmSize
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if err := unix.Mount("shm", p.shmPath(), "tmpfs", flags, fmt.Sprintf("mode=1777,size=%d,uid=%d,gid=%d", size, uid, gid)); err != nil {
		return fmt.Errorf("mount shm: %w", err)
	}
	failpoint.Hit("shm-mounted")
	return nil
}

// removeFiles removes what makeFiles made, by name: nothing here is removed recursively, so that no
// mount that was missed can lose its contents.
func (p *Pod) removeFiles() error {
	errs := []error{durable.Tidy(p.dir()), hostmount.Unmount(filepath.Join(p.dir(), "shm"))} // never shmPath: it may be the node's
	for _, path := range []string{p.resolvPath(), p.hostnamePath(), filepath.Join(p.dir(), "ns")} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove pod files: %w", err)
	}
	return nil
}

func (p *Pod) resolvPath() string   { return filepath.Join(p.dir(), "resolv.conf") }
func (p *Pod) hostnamePath() string { return filepath.Join(p.dir(), "hostname") }
func (p *Pod) shmPath() string {
	if p.cfg.Security.Namespaces.IPC == spec.NamespaceNode {
		return "/dev/shm"
	}
	return filepath.Join(p.dir(), "shm")
}

func (p *Pod) hostname() (string, error) {
	if p.cfg.Hostname == "" || p.cfg.Security.Namespaces.Network == spec.NamespaceNode {
		return os.Hostname()
	}
	if strings.ContainsFunc(p.cfg.Hostname, isControlOrSpace) {
		return "", fmt.Errorf("set hostname %q: control characters and spaces are not allowed", p.cfg.Hostname)
	}
	return p.cfg.Hostname, nil
}

// resolvConf is the pod's resolv.conf; without DNS settings it is the node's. Each setting becomes one
// word on one line, whatever bytes it has.
func resolvConf(dns *spec.DNS) ([]byte, error) {
	if dns == nil {
		data, err := os.ReadFile("/etc/resolv.conf")
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		if err != nil || len(data) > maxResolv {
			return nil, fmt.Errorf("read the node's resolv.conf: %d bytes, %w", len(data), err)
		}
		return data, nil
	}
	for _, words := range [][]string{dns.Servers, dns.Searches, dns.Options} {
		for _, w := range words {
			if w == "" || len(w) > maxDNSOption || strings.ContainsFunc(w, isControlOrSpace) {
				return nil, fmt.Errorf("write resolv.conf: bad setting %q", w)
			}
		}
	}
	var b bytes.Buffer
	if len(dns.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(dns.Searches, " "))
	}
	for _, s := range dns.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(dns.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(dns.Options, " "))
	}
	return b.Bytes(), nil
}

func isControlOrSpace(r rune) bool { return r <= ' ' || r == 0x7f }
