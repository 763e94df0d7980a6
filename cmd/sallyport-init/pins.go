package main

import (
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"unsafe"
)

// pins prepares the namespaces that the process was born in, by the words of args in their order, and
// answers one line: "ready", or "error" and the cause. It then waits for the end of its input, by which
// time the daemon has pinned the namespaces (or died). The exit code is 0 only if all went well.
func pins(args []string, in io.Reader, out io.StringWriter) int {
	if err := prepare(args); err != nil {
		out.WriteString("error " + strings.ReplaceAll(err.Error(), "\n", " ") + "\n")
		return 1
	}
	if _, err := out.WriteString("ready\n"); err != nil {
		return 1
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return 1
	}
	return 0
}

func prepare(args []string) error {
	for _, arg := range args {
		word, value, _ := strings.Cut(arg, "=")
		var err error
		switch word {
		case "lo":
			err = loopbackUp()
		case "hostname":
			err = sethostname(value)
		case "sysctl":
			path, setting, _ := strings.Cut(value, "=")
			err = sysctl(path, setting)
		default:
			err = errors.New("unknown word")
		}
		if err != nil {
			return errors.New(arg + ": " + err.Error())
		}
	}
	return nil
}

func sethostname(name string) error {
	return syscall.Sethostname([]byte(name))
}

// sysctl writes value to the file of /proc/sys named by path, which is relative and has slashes. The
// daemon has checked both (package ns); a path that climbs is refused here once more.
func sysctl(path, value string) error {
	for part := range strings.SplitSeq(path, "/") {
		switch part {
		case "", ".", "..":
			return errors.New("path is not plain")
		}
	}
	f, err := os.OpenFile("/proc/sys/"+path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// loopbackUp sets IFF_UP on lo; the kernel then gives it 127.0.0.1 and ::1 (netdevice(7)).
func loopbackUp() error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	var req struct {
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte // struct ifreq is 40 bytes
	}
	copy(req.name[:], "lo")
	for _, call := range []struct {
		number uintptr
		set    uint16
	}{{syscall.SIOCGIFFLAGS, 0}, {syscall.SIOCSIFFLAGS, syscall.IFF_UP}} {
		req.flags |= call.set
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), call.number, uintptr(unsafe.Pointer(&req))); errno != 0 {
			return errno
		}
	}
	return nil
}
