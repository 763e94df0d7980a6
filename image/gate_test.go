package image

import (
	"testing"

	"sallyport/enforce"
	"sallyport/enforce/enforcetest"
	"sallyport/policy"
	"sallyport/policy/baseline"
)

// newGate is a real gate that admits any image and the emptiest of specs.
func newGate(t *testing.T) *enforce.Gate {
	const a = baseline.Allow
	return enforcetest.Gate(t, baseline.Floor{Level: baseline.Privileged, Seccomp: a, NoNewPrivileges: a, Privileged: a,
		HostNetwork: a, HostPID: a, HostIPC: a, HostUsers: a, RootUser: a, Devices: a, UnmaskedPaths: a, AppArmor: a, SELinux: a,
		BidirMounts: a, Capabilities: []string{"ALL"}, HostPaths: []string{"/"}, Sysctls: []string{"*"}})
}

func containerOf(id string) policy.Container { return policy.Container{Name: "c", ID: id} }
