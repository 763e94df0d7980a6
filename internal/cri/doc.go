// Package cri is the kubelet's door: a gRPC server for CRI v1 on a Unix socket. Every call is
// translate, one room, translate. Nothing is decided here: permission comes from the gate (enforce),
// what an image is from the image room, what a pod is from the sandbox room. In the daemon this is the
// only package that knows cri-api.
//
// Calls that make something (RunPodSandbox, CreateContainer, PullImage) run in keyed flights: the work
// outlives a call that timed out, and the kubelet's retry joins it if key and request agree.
package cri
