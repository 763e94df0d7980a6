package cri

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/opencontainers/selinux/go-selinux"

	"sallyport/sandbox/spec"
)

// categories is how many MCS categories a policy has (setrans.conf(5): c0 to c1023).
const categories = 1024

// labels are the SELinux labels of one pod: the node's container types with two categories of the pod's
// own. They follow from the pod's random ID, so that every container of the pod gets the same, also
// after a restart, and nothing has to be remembered. Two pods of 500 share a pair with about one
// chance in five; what separates them then is everything else.
func labels(h spec.Host, podID string) spec.Labels {
	if !h.SELinux {
		return spec.Labels{}
	}
	process, file := selinux.ContainerLabels()
	level := mcs(podID)
	return spec.Labels{Process: withLevel(process, level), Mount: withLevel(file, level)}
}

// mcs draws two different categories from the pod's ID.
func mcs(podID string) string {
	sum := sha256.Sum256([]byte("mcs " + podID))
	a := binary.BigEndian.Uint32(sum[:4]) % categories
	b := binary.BigEndian.Uint32(sum[4:8]) % (categories - 1)
	if b >= a {
		b++
	}
	return fmt.Sprintf("s0:c%d,c%d", min(a, b), max(a, b))
}

func withLevel(label, level string) string {
	c, err := selinux.NewContext(label)
	if err != nil {
		return label
	}
	c["level"] = level
	return c.Get()
}
