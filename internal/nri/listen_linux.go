package nri

import (
	"net"

	"golang.org/x/sys/unix"
)

// listen binds with a umask that gives nobody else access, so that there is no moment in which the
// socket is open to others; the umask is the whole process's, so this must run before work starts.
func listen(path string) (net.Listener, error) {
	old := unix.Umask(0o177)
	defer unix.Umask(old)
	return net.Listen("unix", path)
}
