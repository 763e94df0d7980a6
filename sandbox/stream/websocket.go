package stream

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"golang.org/x/net/websocket"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// tunnelled is the WebSocket subprotocol that carries SPDY as it would go over TCP (KEP-4006).
const tunnelled = "SPDY/3.1+" + portforward.ProtocolV1Name

// protocols are the WebSocket subprotocols of exec and attach and whether their messages are binary. The
// library's own server stops at v4; clients of today ask for v5 alone, in which a client can close its
// input and go on reading (KEP-4006).
var protocols = map[string]bool{
	"":                                      true,
	wsstream.ChannelWebSocketProtocol:       true,
	wsstream.Base64ChannelWebSocketProtocol: false,
	remotecommand.StreamProtocolV4Name:      true,
	"v4." + wsstream.Base64ChannelWebSocketProtocol: false,
	remotecommand.StreamProtocolV5Name:              true,
}

// serveWebSocket serves one exec or attach over WebSocket.
func (s *Server) serveWebSocket(w http.ResponseWriter, r *http.Request, p process) {
	channels := make([]wsstream.ChannelType, 5) // none of what was not asked for
	for n, asked := range map[int]bool{remotecommand.StreamStdOut: p.t.Stdout, remotecommand.StreamStdErr: p.t.Stderr, remotecommand.StreamErr: true} {
		if asked {
			channels[n] = wsstream.WriteChannel
		}
	}
	for n, asked := range map[int]bool{remotecommand.StreamStdIn: p.t.Stdin, remotecommand.StreamResize: p.t.TTY} {
		if asked {
			channels[n] = wsstream.ReadChannel
		}
	}
	offered := map[string]wsstream.ChannelProtocolConfig{}
	for name, binary := range protocols {
		offered[name] = wsstream.ChannelProtocolConfig{Binary: binary, Channels: channels}
	}
	conn := wsstream.NewConn(offered)
	conn.SetIdleTimeout(s.opt.Idle)
	protocol, streams, err := conn.Open(w, r)
	if err != nil {
		return // the client was told
	}
	defer conn.Close()
	_, _ = streams[remotecommand.StreamErr].Write(nil) // says that the connection stands
	resize := make(chan remotecommand.TerminalSize)
	go sizes(r, streams[remotecommand.StreamResize], resize)
	err = p.call(r.Context(), streams[remotecommand.StreamStdIn], streams[remotecommand.StreamStdOut], streams[remotecommand.StreamStdErr], resize)
	_, _ = streams[remotecommand.StreamErr].Write(lastWords(protocol, err)) // the client may have gone
}

// sizes passes on the sizes of the client's terminal until it sends no more.
func sizes(r *http.Request, from io.Reader, to chan<- remotecommand.TerminalSize) {
	defer close(to)
	for words := json.NewDecoder(from); ; {
		var z remotecommand.TerminalSize
		if words.Decode(&z) != nil {
			return
		}
		select {
		case to <- z:
		case <-r.Context().Done():
			return
		}
	}
}

// status is the part of a metav1.Status that clients of v4 and v5 read.
type status struct {
	Metadata struct{}       `json:"metadata"`
	Status   string         `json:"status"`
	Message  string         `json:"message,omitempty"`
	Reason   string         `json:"reason,omitempty"`
	Details  *statusDetails `json:"details,omitempty"`
	Code     int            `json:"code,omitempty"`
}

type statusDetails struct {
	Causes []statusCause `json:"causes"`
}

type statusCause struct {
	Type    string `json:"reason,omitempty"`
	Message string `json:"message"`
}

// lastWords tell the client how it ended: a status, or before v4 the error in words and nothing of success.
func lastWords(protocol string, err error) []byte {
	var exit ExitError
	st := status{Status: "Success"}
	switch {
	case errors.As(err, &exit):
		st = status{Status: "Failure", Reason: remotecommand.NonZeroExitCodeReason, Message: fmt.Sprintf("command terminated with non-zero exit code: %v", exit),
			Details: &statusDetails{[]statusCause{{remotecommand.ExitCodeCauseType, strconv.Itoa(exit.Code)}}}}
	case err != nil:
		st = status{Status: "Failure", Reason: "InternalError", Message: err.Error(), Code: http.StatusInternalServerError,
			Details: &statusDetails{[]statusCause{{"", err.Error()}}}}
	}
	switch protocol {
	case "", wsstream.ChannelWebSocketProtocol, wsstream.Base64ChannelWebSocketProtocol:
		return []byte(st.Message)
	}
	text, _ := json.Marshal(st) // strings and numbers
	return text
}

// untunnel takes SPDY out of a WebSocket and serves it as if it had come over TCP.
func untunnel(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
	choose := func(c *websocket.Config, _ *http.Request) error {
		c.Protocol, c.Origin = []string{tunnelled}, r.URL
		return nil
	}
	websocket.Server{Handshake: choose, Handler: func(ws *websocket.Conn) {
		ws.PayloadType = websocket.BinaryFrame
		inner := r.Clone(r.Context())
		inner.Header = http.Header{}
		inner.Header.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
		inner.Header.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
		inner.Header.Set(httpstream.HeaderProtocolVersion, portforward.ProtocolV1Name)
		serve(&inside{ws: ws, header: http.Header{}}, inner)
	}}.ServeHTTP(w, r)
}

// inside answers the request within a tunnel: its upgrade was made already, and nobody reads a head.
type inside struct {
	ws     *websocket.Conn
	header http.Header
}

func (i *inside) Header() http.Header         { return i.header }
func (i *inside) WriteHeader(int)             {}
func (i *inside) Write(p []byte) (int, error) { return len(p), nil }

// Hijack gives the tunnel.
func (i *inside) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return i.ws, bufio.NewReadWriter(bufio.NewReader(i.ws), bufio.NewWriter(i.ws)), nil
}
