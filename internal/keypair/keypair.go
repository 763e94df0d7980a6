// Package keypair holds a TLS certificate that is read again when its files change, so that a renewed one
// is served without a restart.
package keypair

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// look is how often the files are looked at, at most: a handshake in between costs no system call.
const look = time.Second

// Pair is a certificate with its key. It may be used concurrently.
type Pair struct {
	cert, key string       // constant; PEM files
	log       *slog.Logger // constant

	mu     sync.Mutex       // guards the rest
	last   *tls.Certificate // immutable value; the last pair that fitted together
	stamps [2]stamp         // of the files when they were last read
	next   time.Time        // before it the files are not looked at
}

// stamp tells one state of a file from another.
type stamp struct {
	at    time.Time
	size  int64
	inode uint64
}

// Load reads a certificate with its chain, and its key. A pair that does not fit together is an error.
func Load(cert, key string, log *slog.Logger) (*Pair, error) {
	p := &Pair{cert: cert, key: key, log: log}
	stamps, err := p.look()
	if err == nil {
		err = p.read(stamps)
	}
	if err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	return p, nil
}

// Config serves the pair with TLS 1.2 or newer.
func (p *Pair) Config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.current(), nil }}
}

// current is the pair as the files have it. While they do not fit together, as between the renewal of the
// one and the other, it is the last that did.
func (p *Pair) current() *tls.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Before(p.next) {
		return p.last
	}
	p.next = now.Add(look)
	stamps, err := p.look()
	if err == nil && stamps == p.stamps {
		return p.last
	}
	if err == nil {
		err = p.read(stamps)
	}
	if err != nil {
		p.log.Warn("reload certificate: the last good one is served", "err", err)
	}
	return p.last
}

func (p *Pair) look() (stamps [2]stamp, err error) {
	for i, path := range []string{p.cert, p.key} {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return stamps, fmt.Errorf("%s: %w", path, err)
		}
		stamps[i] = stamp{time.Unix(st.Ctim.Unix()), st.Size, st.Ino}
	}
	return stamps, nil
}

func (p *Pair) read(stamps [2]stamp) error {
	pair, err := tls.LoadX509KeyPair(p.cert, p.key)
	if err != nil {
		return fmt.Errorf("%s: %w", p.cert, err)
	}
	p.last, p.stamps = &pair, stamps
	return nil
}
