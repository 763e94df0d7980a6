package telemetry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"sallyport/internal/keypair"
)

// contentType is the text format's (prometheus.io, Exposition formats).
const contentType = "text/plain; version=0.0.4; charset=utf-8"

// Listener says where to serve.
type Listener struct {
	Address   string // host:port; "" serves nothing
	Cert, Key string // PEM files; "" serves without TLS
	Log       *slog.Logger
}

// Serve answers GET /metrics until ctx ends. Without an address it only waits.
func (m *Metrics) Serve(ctx context.Context, o Listener) error {
	if o.Address == "" {
		<-ctx.Done()
		return nil
	}
	l, err := o.listen()
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second,
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug)}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

func (o Listener) listen() (net.Listener, error) {
	if o.Cert == "" {
		return net.Listen("tcp", o.Address)
	}
	pair, err := keypair.Load(o.Cert, o.Key, o.Log)
	if err != nil {
		return nil, err
	}
	return tls.Listen("tcp", o.Address, pair.Config())
}

// ServeHTTP answers one scrape.
func (m *Metrics) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", contentType)
	_ = m.Write(w) // the scraper has gone
}
