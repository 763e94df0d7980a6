package fuzz

import (
	"testing"

	"sallyport/sandbox/network"
)

// FuzzCNIResult: what a CNI plugin prints yields at least one address that a pod can have, or an error.
func FuzzCNIResult(f *testing.F) {
	for _, seed := range []string{
		`{"cniVersion":"1.1.0","ips":[{"address":"10.9.9.9/24"}]}`,
		`{"cniVersion":"1.0.0","interfaces":[{"name":"br0"},{"name":"eth0","sandbox":"/var/run/netns/a"}],"ips":[{"interface":1,"address":"fd00::2/64"},{"interface":0,"address":"10.0.0.1/8"}]}`,
		`{"cniVersion":"0.4.0","ips":[{"version":"4","interface":7,"address":"10.0.0.1/8"}]}`,
		`{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.1/8"},"ip6":{"ip":"::ffff:10.0.0.1/96"}}`,
		`{"cniVersion":"0.1.0"}`, `{"cniVersion":"9.9.9"}`, `{"ips":[null]}`, `null`, `{`,
		`{"cniVersion":"1.1.0","ips":[{"address":"127.0.0.1/8"},{"address":"0.0.0.0/0"},{"interface":-1,"address":"1.2.3.4/5"}]}`,
		`{"cniVersion":"1.1.0","interfaces":[null],"ips":[{"interface":0,"address":"1.2.3.4/5"}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		ips, err := network.Addresses(answer)
		if err != nil {
			return
		}
		if len(ips) == 0 || len(ips) > 16 {
			t.Fatalf("%d addresses", len(ips))
		}
		for _, ip := range ips {
			if !ip.IsValid() || ip.Is4In6() || ip.Zone() != "" || ip.IsUnspecified() || ip.IsLoopback() || ip.IsMulticast() {
				t.Fatalf("address %s", ip)
			}
		}
	})
}
