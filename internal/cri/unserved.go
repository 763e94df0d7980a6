package cri

import (
	"context"

	"google.golang.org/grpc/codes"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The checkpoint calls are answered by name: a client can tell "not here" from a fault.

// CheckpointContainer is not served.
func (s *Server) CheckpointContainer(context.Context, *v1.CheckpointContainerRequest) (*v1.CheckpointContainerResponse, error) {
	return nil, failure(codes.Unimplemented, "CheckpointContainer is not implemented: an archive holds the container's memory, secrets included, and the gate has no verb for it yet")
}

// CheckpointPod is not served.
func (s *Server) CheckpointPod(context.Context, *v1.CheckpointPodRequest) (*v1.CheckpointPodResponse, error) {
	return nil, failure(codes.Unimplemented, "CheckpointPod is not implemented: an archive holds the containers' memory, secrets included, and the gate has no verb for it yet")
}

// RestorePod is not served.
func (s *Server) RestorePod(context.Context, *v1.RestorePodRequest) (*v1.RestorePodResponse, error) {
	return nil, failure(codes.Unimplemented, "RestorePod is not implemented: an archive is code that no signature vouches for, and the gate has no verb for it yet")
}
