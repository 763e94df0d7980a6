package proc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Status is what the kernel enforces on a live process, from /proc/<pid>/status and attr/current.
type Status struct {
	UID             int    // effective, as seen from the daemon's user namespace
	CapBounding     uint64 // bit sets, capability number = bit
	CapEffective    uint64
	CapPermitted    uint64
	CapInheritable  uint64
	CapAmbient      uint64
	NoNewPrivileges bool
	Seccomp         int    // 0 none, 1 strict, 2 filter
	Label           string // SELinux label or AppArmor profile; "" where there is none
}

// ReadStatus reads the status of a live process. Every field must be present: an absent one is an
// error, not a zero.
func ReadStatus(pid int) (Status, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return Status{}, fmt.Errorf("read status of process %d: %w", pid, err)
	}
	s, err := parseStatus(string(data))
	if err != nil {
		return Status{}, fmt.Errorf("read status of process %d: %w", pid, err)
	}
	// The file gives EINVAL where no security module labels processes.
	if label, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/attr/current"); err == nil {
		s.Label = strings.TrimRight(string(label), "\x00\n")
	}
	return s, nil
}

func parseStatus(data string) (Status, error) {
	var s Status
	bits := func(p *uint64) func(string) error {
		return func(v string) (err error) { *p, err = strconv.ParseUint(v, 16, 64); return err }
	}
	want := map[string]func(string) error{
		"Uid": func(v string) (err error) {
			f := strings.Fields(v)
			if len(f) != 4 {
				return fmt.Errorf("want 4 uids")
			}
			s.UID, err = strconv.Atoi(f[1])
			return err
		},
		"CapBnd": bits(&s.CapBounding), "CapEff": bits(&s.CapEffective), "CapPrm": bits(&s.CapPermitted),
		"CapInh": bits(&s.CapInheritable), "CapAmb": bits(&s.CapAmbient),
		"NoNewPrivs": func(v string) error { s.NoNewPrivileges = v == "1"; return nil },
		"Seccomp":    func(v string) (err error) { s.Seccomp, err = strconv.Atoi(v); return err },
	}
	for line := range strings.Lines(data) {
		key, value, _ := strings.Cut(line, ":")
		parse, ok := want[key]
		if !ok {
			continue
		}
		if err := parse(strings.TrimSpace(value)); err != nil {
			return Status{}, fmt.Errorf("parse %s: %w", key, err)
		}
		delete(want, key)
	}
	for key := range want {
		return Status{}, fmt.Errorf("no %s in it", key)
	}
	return s, nil
}
