package spec

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

const (
	maxAccounts = 1 << 20 // bytes of /etc/passwd and of /etc/group (CVE-2025-4437, CVE-2026-47262)
	maxGroups   = 1024    // of one process; the kernel takes 65,536
)

// ParseUser reads the user part of an image's USER or of a request: a number as its decimal digits
// alone, or else a name, taken literally. Numbers that no ID can have are errors: a UID that overflows
// would become another (CVE-2024-40635, CVE-2026-46680). "" is user 0.
func ParseUser(s string) (uid uint32, name string, err error) {
	user, _, _ := strings.Cut(s, ":")
	if user == "" {
		user = "0"
	}
	if !digits(user) {
		return 0, user, text(user)
	}
	uid, err = number(user)
	return uid, "", err
}

func digits(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' }) < 0
}

func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("ID %.20q is not a plain number up to %d", s, math.MaxInt32)
	}
	return uint32(n), nil
}

func id(n int64, what string) (uint32, error) {
	if n < 0 || n > math.MaxInt32 {
		return 0, fmt.Errorf("%s %d is not between 0 and %d", what, n, math.MaxInt32)
	}
	return uint32(n), nil
}

// account is a line of /etc/passwd.
type account struct {
	name, home string
	uid, gid   uint32
}

// user resolves who the process is. The request wins over the image; a group that the image names goes
// with the image's user only.
func (b *builder) user() error {
	if len(b.in.Passwd) > maxAccounts || len(b.in.Group) > maxAccounts {
		return fmt.Errorf("/etc/passwd or /etc/group of the image is larger than %d bytes", maxAccounts)
	}
	s := b.in.Container.Security
	asked, group := b.in.Image.User, ""
	switch {
	case s.RunAsUser != nil && s.RunAsUsername != "":
		return errors.New("runAsUser and runAsUsername are both set")
	case s.RunAsUser != nil:
		n, err := id(*s.RunAsUser, "runAsUser")
		if err != nil {
			return err
		}
		asked = strconv.FormatUint(uint64(n), 10)
	case s.RunAsUsername != "":
		asked = s.RunAsUsername
		if strings.ContainsRune(asked, ':') {
			return fmt.Errorf("runAsUsername %.40q has a colon", asked)
		}
	case s.RunAsGroup != nil:
		return errors.New("runAsGroup is set without runAsUser")
	default:
		_, group, _ = strings.Cut(b.in.Image.User, ":")
	}
	uid, name, err := ParseUser(asked)
	if err != nil {
		return fmt.Errorf("user: %w", err)
	}
	who, known := lookup(b.in.Passwd, uid, name)
	if name != "" && !known {
		return fmt.Errorf("user %.40q is not in the image's /etc/passwd", name)
	}
	gid := who.gid
	if group != "" {
		if gid, err = b.group(group); err != nil {
			return err
		}
	}
	if s.RunAsGroup != nil {
		if gid, err = id(*s.RunAsGroup, "runAsGroup"); err != nil {
			return err
		}
	}
	groups := []uint32{gid} // always: CVE-2022-2995, CVE-2023-25173
	for _, g := range s.SupplementalGroups {
		n, err := id(g, "supplemental group")
		if err != nil {
			return err
		}
		groups = append(groups, n)
	}
	if !s.StrictGroups && known {
		groups = append(groups, memberOf(b.in.Group, who.name)...)
	}
	slices.Sort(groups)
	groups = slices.Compact(groups)
	if len(groups) > maxGroups {
		return fmt.Errorf("the user is in %d groups, more than %d", len(groups), maxGroups)
	}
	u := &b.spec.Process.User
	u.UID, u.GID, u.AdditionalGids = who.uid, gid, groups
	if u.UID == 0 && !b.userNS && !b.privileged {
		b.must("rootUser", b.in.Floor.RootUser, "user 0 without a user namespace")
	}
	return nil
}

// account is what /etc/passwd says of the resolved user.
func (b *builder) account() (account, bool) {
	who, ok := lookup(b.in.Passwd, b.spec.Process.User.UID, "")
	return who, ok && strings.HasPrefix(who.home, "/") && text(who.home) == nil && !strings.ContainsFunc(who.home, isControl)
}

func (b *builder) group(s string) (uint32, error) {
	if digits(s) {
		n, err := number(s)
		if err != nil {
			return 0, fmt.Errorf("group: %w", err)
		}
		return n, nil
	}
	for fields := range records(b.in.Group) {
		if len(fields) >= 3 && fields[0] == s {
			if n, err := number(fields[2]); err == nil {
				return n, nil
			}
		}
	}
	return 0, fmt.Errorf("group %.40q is not in the image's /etc/group", s)
}

// lookup finds an account by its name or, where that is "", by uid. One that is not found has the
// uid, group 0 and no name.
func lookup(passwd []byte, uid uint32, name string) (account, bool) {
	for f := range records(passwd) {
		if len(f) < 6 {
			continue
		}
		u, errU := number(f[2])
		g, errG := number(f[3])
		if errU == nil && errG == nil && f[0] != "" && (name != "" && f[0] == name || name == "" && u == uid) {
			return account{name: f[0], home: f[5], uid: u, gid: g}, true
		}
	}
	return account{uid: uid}, false
}

func memberOf(group []byte, name string) (out []uint32) {
	for f := range records(group) {
		if len(f) < 4 || !slices.Contains(strings.Split(f[3], ","), name) {
			continue
		}
		if n, err := number(f[2]); err == nil && len(out) <= maxGroups {
			out = append(out, n)
		}
	}
	return out
}

// records yields the lines of a passwd or group file, split at colons. Comments and lines that hold a
// zero byte are left out.
func records(data []byte) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for line := range bytes.Lines(data) {
			line = bytes.TrimSuffix(line, []byte("\n"))
			if len(line) == 0 || line[0] == '#' || bytes.IndexByte(line, 0) >= 0 {
				continue
			}
			if !yield(strings.Split(string(line), ":")) {
				return
			}
		}
	}
}
