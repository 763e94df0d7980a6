package cri

import (
	"context"
	"path"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// partBytes is what one message of a streamed list holds, in bytes; one larger item goes alone. It
// stays far below the kubelet's limit of a message (KEP-5825).
const partBytes = 1 << 20

// inParts sends items in lists of at least one, each item once. No items are no message.
func inParts[T any](items []T, bytes func(T) int, send func([]T) error) error {
	for len(items) > 0 {
		size, n := bytes(items[0]), 1
		for ; n < len(items); n++ {
			if size += bytes(items[n]); size > partBytes {
				break
			}
		}
		if err := send(items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

func sizeOf[T proto.Message](m T) int { return proto.Size(m) }

func sizeOnWire(i *shownItem) int { return len(i.wire) }

// StreamPodSandboxes is ListPodSandbox in parts.
func (s *Server) StreamPodSandboxes(req *v1.StreamPodSandboxesRequest, to grpc.ServerStreamingServer[v1.StreamPodSandboxesResponse]) error {
	items, err := s.listPods(req.GetFilter())
	if err != nil {
		return err
	}
	return inParts(items, sizeOnWire, func(part []*shownItem) error { return to.Send(fill(&v1.StreamPodSandboxesResponse{}, part)) })
}

// StreamContainers is ListContainers in parts.
func (s *Server) StreamContainers(req *v1.StreamContainersRequest, to grpc.ServerStreamingServer[v1.StreamContainersResponse]) error {
	items, err := s.listContainers(req.GetFilter())
	if err != nil {
		return err
	}
	return inParts(items, sizeOnWire, func(part []*shownItem) error { return to.Send(fill(&v1.StreamContainersResponse{}, part)) })
}

// StreamContainerStats is ListContainerStats in parts.
func (s *Server) StreamContainerStats(req *v1.StreamContainerStatsRequest, to grpc.ServerStreamingServer[v1.StreamContainerStatsResponse]) error {
	resp, err := s.ListContainerStats(to.Context(), &v1.ListContainerStatsRequest{Filter: req.GetFilter()})
	if err != nil {
		return err
	}
	return inParts(resp.Stats, sizeOf, func(part []*v1.ContainerStats) error {
		return to.Send(&v1.StreamContainerStatsResponse{ContainerStats: part})
	})
}

// StreamPodSandboxStats is ListPodSandboxStats in parts.
func (s *Server) StreamPodSandboxStats(req *v1.StreamPodSandboxStatsRequest, to grpc.ServerStreamingServer[v1.StreamPodSandboxStatsResponse]) error {
	resp, err := s.ListPodSandboxStats(to.Context(), &v1.ListPodSandboxStatsRequest{Filter: req.GetFilter()})
	if err != nil {
		return err
	}
	return inParts(resp.Stats, sizeOf, func(part []*v1.PodSandboxStats) error {
		return to.Send(&v1.StreamPodSandboxStatsResponse{PodSandboxStats: part})
	})
}

// StreamPodSandboxMetrics is ListPodSandboxMetrics in parts.
func (s *Server) StreamPodSandboxMetrics(_ *v1.StreamPodSandboxMetricsRequest, to grpc.ServerStreamingServer[v1.StreamPodSandboxMetricsResponse]) error {
	resp, err := s.ListPodSandboxMetrics(to.Context(), &v1.ListPodSandboxMetricsRequest{})
	if err != nil {
		return err
	}
	return inParts(resp.PodMetrics, sizeOf, func(part []*v1.PodSandboxMetrics) error {
		return to.Send(&v1.StreamPodSandboxMetricsResponse{PodSandboxMetrics: part})
	})
}

// StreamImages is ListImages in parts.
func (s *Server) StreamImages(req *v1.StreamImagesRequest, to grpc.ServerStreamingServer[v1.StreamImagesResponse]) error {
	resp, err := s.ListImages(to.Context(), &v1.ListImagesRequest{Filter: req.GetFilter()})
	if err != nil {
		return err
	}
	return inParts(resp.Images, sizeOf, func(part []*v1.Image) error {
		return to.Send(&v1.StreamImagesResponse{Images: part})
	})
}

// recoverStream is recover for calls that stream.
func (s *Server) recoverStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	_, err := s.recover(stream.Context(), nil, &grpc.UnaryServerInfo{FullMethod: info.FullMethod}, func(context.Context, any) (any, error) {
		return nil, next(srv, stream)
	})
	return err
}

// observeStream is observe for calls that stream, but for events, which last as long as their reader.
func (s *Server) observeStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if path.Base(info.FullMethod) == "GetContainerEvents" {
		return next(srv, stream)
	}
	_, err := s.observe(stream.Context(), nil, &grpc.UnaryServerInfo{FullMethod: info.FullMethod}, func(context.Context, any) (any, error) {
		return nil, next(srv, stream)
	})
	return err
}
