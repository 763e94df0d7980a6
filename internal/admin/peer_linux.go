package admin

import (
	"log/slog"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// ownListener hands out connections of processes of our own user alone.
type ownListener struct {
	net.Listener
	log *slog.Logger
}

func own(l net.Listener, log *slog.Logger) net.Listener { return ownListener{l, log} }

// Accept closes a stranger's connection before a byte of it is read.
func (l ownListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := peer(conn)
		if err == nil && uid == os.Geteuid() {
			return conn, nil
		}
		l.log.Warn("admin socket: refused a connection", "uid", uid, "err", err)
		conn.Close()
	}
}

// peer is the user that made the connection, as the kernel of this namespace knows it; -1 with an error.
func peer(conn net.Conn) (int, error) {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return -1, net.UnknownNetworkError(conn.LocalAddr().Network())
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return -1, err
	}
	uid := -1
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); cerr == nil {
			uid = int(cred.Uid)
		}
	}); err != nil {
		return -1, err
	}
	return uid, cerr
}
