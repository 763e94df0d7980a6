package cri

import (
	"context"
	"errors"
	"strings"
	"unicode"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	crierrors "k8s.io/cri-api/pkg/errors"

	"sallyport/enforce"
	"sallyport/image"
	"sallyport/sandbox"
	"sallyport/sandbox/spec"
	"sallyport/sandbox/stream"
)

// What the door itself refuses.
var (
	errInvalid  = errors.New("invalid request")
	errNotFound = errors.New("not found")
	errPanic    = errors.New("panic")
	errConflict = errors.New("conflict")
)

// maxMessage bounds a status message in bytes: events show 1,024 (events.k8s.io, note), and the
// decisive part comes first.
const maxMessage = 2048

// pullStatus is the status of a failed pull. The kubelet reads the reason only from code Unknown, and
// only as a prefix of the text (kubelet, evalCRIPullErr).
func pullStatus(err error) error {
	var denied *enforce.Denied
	switch {
	case err == nil:
		return nil
	case errors.As(err, &denied):
		return failure(codes.Unknown, crierrors.ErrSignatureValidationFailed.Error()+": "+denied.Error())
	case errors.Is(err, image.ErrUnavailable):
		return failure(codes.Unknown, crierrors.ErrRegistryUnavailable.Error()+": "+err.Error())
	case errors.Is(err, image.ErrUnauthorized), errors.Is(err, image.ErrInvalid), errors.Is(err, image.ErrCorrupt):
		return failure(codes.Unknown, err.Error())
	}
	return toStatus(err)
}

// toStatus is the status of any other failed call. A refusal is PermissionDenied and an audit fault
// Unavailable, never DeadlineExceeded, which the kubelet would take for a failed probe.
func toStatus(err error) error {
	var denied *enforce.Denied
	switch {
	case err == nil:
		return nil
	case errors.As(err, &denied) && denied.Volume != "":
		return failure(codes.PermissionDenied, crierrors.ErrImageVolumeMountFailed.Error()+": "+denied.Error())
	case errors.As(err, &denied):
		return failure(codes.PermissionDenied, denied.Error())
	case errors.Is(err, sandbox.ErrImageVolume):
		return failure(codes.Unknown, crierrors.ErrImageVolumeMountFailed.Error()+": "+err.Error())
	case errors.Is(err, spec.ErrRecursiveReadOnly):
		return failure(codes.Unknown, crierrors.ErrRROUnsupported.Error()+": "+err.Error())
	case errors.Is(err, enforce.ErrAudit):
		return failure(codes.Unavailable, err.Error())
	}
	for _, m := range statuses {
		if errors.Is(err, m.err) {
			return failure(m.code, err.Error())
		}
	}
	if s, ok := status.FromError(err); ok {
		return s.Err()
	}
	return failure(codes.Unknown, err.Error())
}

// statuses are looked through in order: the first that matches is the code.
var statuses = []struct {
	err  error
	code codes.Code
}{
	{errInvalid, codes.InvalidArgument},
	{errNotFound, codes.NotFound},
	{errConflict, codes.AlreadyExists},
	{errPanic, codes.Internal},
	{image.ErrNotFound, codes.NotFound},
	{sandbox.ErrTimeout, codes.DeadlineExceeded},
	{sandbox.ErrNotFound, codes.NotFound},
	{sandbox.ErrExists, codes.AlreadyExists},
	{sandbox.ErrBusy, codes.Unavailable},
	{sandbox.ErrNotReady, codes.FailedPrecondition},
	{sandbox.ErrNotRunning, codes.FailedPrecondition},
	{sandbox.ErrNotCreated, codes.FailedPrecondition},
	{sandbox.ErrNeedsAdmission, codes.Unavailable},
	{sandbox.ErrStopped, codes.Aborted},
	{sandbox.ErrMismatch, codes.Internal},
	{image.ErrInUse, codes.FailedPrecondition},
	{stream.ErrTooMany, codes.ResourceExhausted},
	{enforce.ErrForged, codes.Internal},
	{enforce.ErrRedeemed, codes.Internal},
	{enforce.ErrExpired, codes.Unavailable},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},
}

func failure(code codes.Code, msg string) error {
	msg = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(msg, "?"))
	if len(msg) > maxMessage {
		msg = strings.ToValidUTF8(msg[:maxMessage-3], "") + "..."
	}
	return status.Error(code, msg)
}
