package stream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// process is one exec or attach in the words of the library.
type process struct {
	t   Terminal
	run func(context.Context, IO) error
}

// ExecInContainer runs the exec. What the library says of names and commands is empty: run knows.
func (p process) ExecInContainer(ctx context.Context, _, _, _ string, _ []string, in io.Reader, out, errs io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	return p.call(ctx, in, out, errs, resize)
}

// AttachContainer runs the attach.
func (p process) AttachContainer(ctx context.Context, _, _, _ string, in io.Reader, out, errs io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	return p.call(ctx, in, out, errs, resize)
}

// call gives run the streams that were asked for and no other that the client may have opened.
func (p process) call(ctx context.Context, in io.Reader, out, errs io.WriteCloser, resize <-chan remotecommand.TerminalSize) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var streams IO
	if p.t.Stdin && in != nil {
		streams.Stdin = in
	}
	if p.t.Stdout && out != nil {
		streams.Stdout = out
	}
	if p.t.Stderr && !p.t.TTY && errs != nil {
		streams.Stderr = errs
	}
	if p.t.TTY && resize != nil {
		sizes := make(chan Size)
		streams.Resize = sizes
		go pass(ctx, resize, sizes)
	}
	err := p.run(ctx, streams)
	var exit ExitError
	if errors.As(err, &exit) {
		return exit // the library looks at the outermost error only
	}
	return err
}

func pass(ctx context.Context, from <-chan remotecommand.TerminalSize, to chan<- Size) {
	defer close(to)
	for {
		select {
		case <-ctx.Done():
			return
		case z, ok := <-from:
			if !ok {
				return
			}
			select {
			case to <- Size{Width: z.Width, Height: z.Height}:
			case <-ctx.Done():
				return
			}
		}
	}
}

// forwarder is one port-forward in the words of the library.
type forwarder struct {
	ctx  context.Context // of the client's connection; the library gives none
	f    Forwarding
	open sync.WaitGroup
}

// PortForward serves one connection to a port.
func (f *forwarder) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	f.open.Add(1)
	defer f.open.Done()
	if port < 1 || port > 65535 {
		return errors.New(http.StatusText(http.StatusBadRequest))
	}
	return f.f.Port(f.ctx, uint16(port), stream)
}
