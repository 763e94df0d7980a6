package network

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
)

const (
	maxName  = 253  // RFC 1123 subdomain, as Kubernetes names
	maxPorts = 1000 // of one pod
)

// check refuses what could mean something else to a plugin: CNI_ARGS is "key=value;key=value", file names
// are made of the pod's ID, and port mappings become rules of the node's firewall.
func (a Attachment) check() error {
	if err := checkID(a.PodID); err != nil {
		return err
	}
	for what, s := range map[string]string{"namespace": a.Namespace, "name": a.Name, "UID": a.UID} {
		if err := checkName(s); err != nil {
			return fmt.Errorf("pod %s %q: %w", what, s, err)
		}
	}
	if !filepath.IsAbs(a.NetNS) {
		return fmt.Errorf("network namespace %q is not an absolute path", a.NetNS)
	}
	if len(a.Ports) > maxPorts {
		return fmt.Errorf("%d ports; at most %d", len(a.Ports), maxPorts)
	}
	for _, p := range a.Ports {
		if err := p.check(); err != nil {
			return fmt.Errorf("map port %d of the node to %d: %w", p.HostPort, p.ContainerPort, err)
		}
	}
	return nil
}

func (p Port) check() error {
	switch {
	case p.HostPort == 0 || p.ContainerPort == 0:
		return errors.New("0 is no port")
	case p.Protocol != "tcp" && p.Protocol != "udp" && p.Protocol != "sctp":
		return fmt.Errorf("protocol %q is not tcp, udp or sctp", p.Protocol)
	case p.HostIP != "":
		if ip, err := netip.ParseAddr(p.HostIP); err != nil || ip.Zone() != "" {
			return fmt.Errorf("%q is not an IP address", p.HostIP)
		}
	}
	return nil
}

// checkID passes the IDs that sandbox makes: hexadecimal, short enough for a file name.
func checkID(id string) error {
	if id == "" || len(id) > 64 {
		return fmt.Errorf("pod ID %q: not 1 to 64 hexadecimal digits", id)
	}
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("pod ID %q: not 1 to 64 hexadecimal digits", id)
		}
	}
	return nil
}

func checkName(s string) error {
	if len(s) > maxName {
		return fmt.Errorf("longer than %d bytes", maxName)
	}
	for _, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && c != '-' && c != '.' && c != '_' {
			return fmt.Errorf("byte %q is not allowed", c)
		}
	}
	return nil
}
