package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

// Client asks the daemon behind one socket. It may be used concurrently.
type Client struct {
	http   http.Client // constant
	socket string      // constant
}

// New is a client of the daemon that listens on socket. It connects at the first call.
func New(socket string) *Client {
	c := &Client{socket: socket}
	c.http.Transport = &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}
	return c
}

// Do makes one call: in is its request, and into takes its answer. The daemon's own refusal is a
// *Refused; any other error means that there was no answer. ctx bounds the whole.
func (c *Client) Do(ctx context.Context, call string, in, into any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://sallyportd/v1/"+call, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			return fmt.Errorf("ask the daemon at %s: %w; does it run, and are you root?", c.socket, op.Err)
		}
		return fmt.Errorf("ask the daemon at %s: %w", c.socket, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, MaxAnswer+1))
	if err != nil {
		return fmt.Errorf("ask the daemon at %s: %w", c.socket, err)
	}
	if len(text) > MaxAnswer {
		return fmt.Errorf("ask the daemon at %s: its answer is longer than %d bytes", c.socket, MaxAnswer)
	}
	if resp.StatusCode != http.StatusOK {
		var f Failure
		if json.Unmarshal(text, &f) != nil || f.Error == "" {
			f.Error = resp.Status
		}
		return &Refused{Status: resp.StatusCode, Msg: f.Error}
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("ask the daemon at %s: read its answer: %w", c.socket, err)
	}
	return nil
}

// Refused is what the daemon answered where it did not do what was asked.
type Refused struct {
	Status int    // of HTTP
	Msg    string // one line
}

// Error is the daemon's own line.
func (r *Refused) Error() string { return r.Msg }
