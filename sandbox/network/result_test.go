package network

import (
	"fmt"
	"strings"
	"testing"
)

func TestAddresses(t *testing.T) {
	const faces = `"interfaces":[{"name":"br0"},{"name":"eth0","sandbox":"/n"}],`
	many := strings.TrimSuffix(strings.Repeat(`{"address":"10.0.0.2/8"},`, 17), ",")
	for _, tc := range []struct {
		name, answer string
		want         string // addresses, or a part of the error after "!"
	}{
		{"both families", `{"cniVersion":"1.0.0",` + faces + `"ips":[{"interface":1,"address":"10.0.0.2/8"},{"interface":1,"address":"fd00::2/64"}]}`, "[10.0.0.2 fd00::2]"},
		{"the bridge's is not the pod's", `{"cniVersion":"1.0.0",` + faces + `"ips":[{"interface":0,"address":"10.0.0.1/8"},{"interface":1,"address":"10.0.0.2/8"}]}`, "[10.0.0.2]"},
		{"no interface named", `{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/8"}]}`, "[10.0.0.2]"},
		{"mapped", `{"cniVersion":"1.0.0","ips":[{"address":"::ffff:10.0.0.2/104"}]}`, "[10.0.0.2]"},
		{"old version", `{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/8"}}`, "[10.0.0.2]"},
		{"interface out of range", `{"cniVersion":"1.0.0",` + faces + `"ips":[{"interface":2,"address":"10.0.0.2/8"}]}`, "!on interface 2 of 2"},
		{"interface below range", `{"cniVersion":"1.0.0",` + faces + `"ips":[{"interface":-1,"address":"10.0.0.2/8"}]}`, "!on interface -1"},
		{"only the bridge's", `{"cniVersion":"1.0.0",` + faces + `"ips":[{"interface":0,"address":"10.0.0.1/8"}]}`, "!no address"},
		{"unspecified", `{"cniVersion":"1.0.0","ips":[{"address":"0.0.0.0/0"}]}`, "!cannot be"},
		{"too many", `{"cniVersion":"1.0.0","ips":[` + many + `]}`, "!17 addresses"},
		{"unknown version", `{"cniVersion":"9.0.0"}`, "!unsupported"},
		{"too large", `{"cniVersion":"1.0.0"}` + strings.Repeat(" ", maxAnswer), "!at most"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ips, err := Addresses([]byte(tc.answer))
			if because, bad := strings.CutPrefix(tc.want, "!"); bad {
				if err == nil || !strings.Contains(err.Error(), because) {
					t.Fatalf("Addresses() = %v, %v, want an error with %q", ips, err, because)
				}
			} else if err != nil || fmt.Sprint(ips) != tc.want {
				t.Fatalf("Addresses() = %v, %v, want %s", ips, err, tc.want)
			}
		})
	}
}
