package network

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
)

// maxIPs bounds what one pod reports; dual stack needs two.
const maxIPs = 16

// Addresses reads the pod's addresses from a plugin's answer to ADD, as Attach does. Plugins are
// programs of the node, but what they print passes through addresses and names that others chose.
func Addresses(answer []byte) ([]netip.Addr, error) {
	if len(answer) > maxAnswer {
		return nil, fmt.Errorf("result of %d bytes; at most %d", len(answer), maxAnswer)
	}
	res, err := create.CreateFromBytes(answer)
	if err != nil {
		return nil, err
	}
	return addresses(res)
}

// addresses returns the addresses that are the pod's: those whose interface lies in a sandbox, or that
// name no interface. A pod without any is an error, since the kubelet would make it anew for ever.
func addresses(res types.Result) ([]netip.Addr, error) {
	if res == nil {
		return nil, errors.New("the plugins returned no result")
	}
	r, err := types100.NewResultFromResult(res)
	if err != nil {
		return nil, fmt.Errorf("read result: %w", err)
	}
	var ips []netip.Addr
	for _, c := range r.IPs {
		if c == nil {
			return nil, errors.New("read result: an address is null")
		}
		if i := c.Interface; i != nil {
			if *i < 0 || *i >= len(r.Interfaces) || r.Interfaces[*i] == nil {
				return nil, fmt.Errorf("read result: address %s is on interface %d of %d", c.Address.IP, *i, len(r.Interfaces))
			}
			if r.Interfaces[*i].Sandbox == "" {
				continue
			}
		}
		ip, ok := netip.AddrFromSlice(c.Address.IP)
		if !ok {
			return nil, fmt.Errorf("read result: %q is not an IP address", c.Address.IP.String())
		}
		ip = ip.Unmap()
		if ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback() {
			return nil, fmt.Errorf("read result: %s cannot be a pod's address", ip)
		}
		ips = append(ips, ip)
	}
	switch {
	case len(ips) == 0:
		return nil, errors.New("the network gave the pod no address")
	case len(ips) > maxIPs:
		return nil, fmt.Errorf("the network gave the pod %d addresses; at most %d", len(ips), maxIPs)
	}
	return ips, nil
}
