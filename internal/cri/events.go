package cri

import (
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/sandbox"
)

// GetContainerEvents tells what happens to pods and containers, from now on, until the client goes or
// the daemon ends. An event about a pod has the pod's ID as its container ID. A client that reads too
// slowly gets ResourceExhausted and must list everything anew: nothing waits for it.
func (s *Server) GetContainerEvents(_ *v1.GetEventsRequest, to grpc.ServerStreamingServer[v1.ContainerEventResponse]) error {
	sub, err := s.o.Pods.Subscribe()
	if err != nil {
		return failure(codes.ResourceExhausted, err.Error())
	}
	defer sub.Close()
	sent := make(chan error, 1)
	go func() { sent <- s.forward(to, sub) }() // ends with this call, also while it waits for the client
	select {
	case err = <-sent:
	case <-sub.Dropped():
		err = sandbox.ErrSlow
	case <-s.closing:
		return failure(codes.Unavailable, "the daemon is stopping")
	}
	switch {
	case to.Context().Err() != nil:
		return nil // the client has gone
	case errors.Is(err, sandbox.ErrSlow):
		return failure(codes.ResourceExhausted, err.Error())
	}
	return toStatus(fmt.Errorf("send events: %w", err))
}

func (s *Server) forward(to grpc.ServerStreamingServer[v1.ContainerEventResponse], sub *sandbox.Subscription) (err error) {
	defer func() {
		if p := recover(); p != nil { // out of reach of the interceptor
			err = fmt.Errorf("%w: %v", errPanic, p)
		}
	}()
	for {
		ev, err := sub.Next(to.Context())
		if err != nil {
			return err
		}
		if err := to.Send(s.eventOut(ev)); err != nil {
			return err
		}
	}
}

var eventTypes = map[sandbox.EventKind]v1.ContainerEventType{
	sandbox.EventCreated: v1.ContainerEventType_CONTAINER_CREATED_EVENT,
	sandbox.EventStarted: v1.ContainerEventType_CONTAINER_STARTED_EVENT,
	sandbox.EventStopped: v1.ContainerEventType_CONTAINER_STOPPED_EVENT,
	sandbox.EventDeleted: v1.ContainerEventType_CONTAINER_DELETED_EVENT,
}

// eventOut shows the pod and its containers as they are when the event is sent. The container that an
// event is about is among them until it is deleted, though it may be gone already.
func (s *Server) eventOut(ev sandbox.Event) *v1.ContainerEventResponse {
	out := &v1.ContainerEventResponse{ContainerId: ev.Pod.ID(), ContainerEventType: eventTypes[ev.Kind], CreatedAt: ev.At.UnixNano(), PodSandboxStatus: podStatusOut(ev.Pod)}
	if ev.Container != nil {
		out.ContainerId = ev.Container.ID()
	}
	there := false
	for _, c := range ev.Pod.Containers() {
		if c.Published() {
			there = there || c == ev.Container
			out.ContainersStatuses = append(out.ContainersStatuses, s.containerStatusOut(c))
		}
	}
	if ev.Container != nil && !there && ev.Kind != sandbox.EventDeleted {
		out.ContainersStatuses = append(out.ContainersStatuses, s.containerStatusOut(ev.Container))
	}
	return out
}
