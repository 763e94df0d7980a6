package cri

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/enforce"
	"sallyport/image"
	"sallyport/image/ref"
)

// PullImage resolves a name once, has the gate judge what was found, and copies exactly that. The
// namespace is that of the pod which wants it; without one the node policy alone judges.
func (s *Server) PullImage(ctx context.Context, req *v1.PullImageRequest) (*v1.PullImageResponse, error) {
	name, err := ref.Parse(req.GetImage().GetImage())
	if err != nil {
		return nil, toStatus(fmt.Errorf("%w: %w", errInvalid, err))
	}
	creds, err := credentials(req.GetAuth())
	if err != nil {
		return nil, toStatus(fmt.Errorf("pull %s: %w", name, err))
	}
	namespace := req.GetSandboxConfig().GetMetadata().GetNamespace()
	hash := digestOf(creds)
	begin := time.Now()
	id, err := s.pulls.do(ctx, namespace+" "+name.String()+" "+hash, hash, func(ctx context.Context) (string, error) {
		return s.pull(ctx, name, creds, namespace)
	})
	if s.o.Pulled != nil {
		s.o.Pulled(pullOutcome(err), time.Since(begin))
	}
	if err != nil {
		return nil, pullStatus(err)
	}
	return &v1.PullImageResponse{ImageRef: id}, nil
}

// pullOutcome is how a pull ended in one of few words.
func pullOutcome(err error) string {
	var denied *enforce.Denied
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &denied):
		return "denied"
	}
	for _, o := range []struct {
		err  error
		word string
	}{{image.ErrUnavailable, "unavailable"}, {image.ErrUnauthorized, "unauthorized"}, {image.ErrNotFound, "not-found"}, {image.ErrInvalid, "invalid"},
		{image.ErrCorrupt, "corrupt"}, {context.DeadlineExceeded, "timeout"}, {context.Canceled, "canceled"}} {
		if errors.Is(err, o.err) {
			return o.word
		}
	}
	return "other"
}

func (s *Server) pull(ctx context.Context, name ref.Name, creds image.Credentials, namespace string) (string, error) {
	creds.Namespace = namespace
	src, err := s.o.Images.Resolve(ctx, name, creds)
	if err != nil {
		return "", err
	}
	defer src.Close()
	adm, err := s.o.Gate.AdmitPull(ctx, enforce.PullRequest{Namespace: namespace, Image: src.Image(), Evidence: src.Evidence()})
	if err != nil {
		return "", err
	}
	img, err := s.o.Images.Pull(ctx, src, adm)
	if err != nil {
		return "", err
	}
	return img.ID.String(), nil
}

// credentials reads what the kubelet found in pull secrets. auth is base64 of user:password, as in
// docker's config.json.
func credentials(a *v1.AuthConfig) (image.Credentials, error) {
	c := image.Credentials{Username: a.GetUsername(), Password: a.GetPassword(), IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken()}
	if c.Username != "" || a.GetAuth() == "" {
		return c, nil
	}
	b, err := base64.StdEncoding.DecodeString(a.GetAuth())
	user, password, ok := strings.Cut(string(b), ":")
	if err != nil || !ok {
		return image.Credentials{}, fmt.Errorf("%w: auth.auth is no base64 of user:password", errInvalid)
	}
	c.Username, c.Password = user, strings.TrimRight(password, "\x00")
	return c, nil
}

// ListImages lists the verified images, or the one that the filter names.
func (s *Server) ListImages(_ context.Context, req *v1.ListImagesRequest) (*v1.ListImagesResponse, error) {
	resp := &v1.ListImagesResponse{}
	if name := req.GetFilter().GetImage().GetImage(); name != "" {
		if img, ok := s.o.Images.Status(name); ok {
			resp.Images = append(resp.Images, imageOut(img))
		}
		return resp, nil
	}
	for _, img := range s.o.Images.List() {
		resp.Images = append(resp.Images, imageOut(img))
	}
	return resp, nil
}

// ImageStatus describes one image; an absent one is no error but no image.
func (s *Server) ImageStatus(_ context.Context, req *v1.ImageStatusRequest) (*v1.ImageStatusResponse, error) {
	name := req.GetImage().GetImage()
	if name == "" {
		return nil, toStatus(fmt.Errorf("%w: image.image is empty", errInvalid))
	}
	img, ok := s.o.Images.Status(name)
	if !ok {
		return &v1.ImageStatusResponse{}, nil
	}
	resp := &v1.ImageStatusResponse{Image: imageOut(img)}
	if req.GetVerbose() {
		b, err := json.Marshal(map[string]any{"imageSpec": map[string]any{"config": img.Config}, "pulled": img.Pulled})
		if err != nil {
			return nil, toStatus(fmt.Errorf("describe image %s: %w", img.ID, err))
		}
		resp.Info = map[string]string{"info": string(b)}
	}
	return resp, nil
}

// RemoveImage removes an image with all its names; one that is gone already is success.
func (s *Server) RemoveImage(_ context.Context, req *v1.RemoveImageRequest) (*v1.RemoveImageResponse, error) {
	name := req.GetImage().GetImage()
	if name == "" {
		return nil, toStatus(fmt.Errorf("%w: image.image is empty", errInvalid))
	}
	if err := s.o.Images.Remove(name); err != nil && !isNotFound(err) {
		return nil, toStatus(err)
	}
	return &v1.RemoveImageResponse{}, nil
}

// ImageFsInfo tells how much the images take.
func (s *Server) ImageFsInfo(context.Context, *v1.ImageFsInfoRequest) (*v1.ImageFsInfoResponse, error) {
	u := fsUsage(s.o.Images.FsInfo())
	return &v1.ImageFsInfoResponse{ImageFilesystems: []*v1.FilesystemUsage{u}, ContainerFilesystems: []*v1.FilesystemUsage{u}}, nil
}

func fsUsage(i image.FsInfo) *v1.FilesystemUsage {
	return &v1.FilesystemUsage{Timestamp: i.Timestamp.UnixNano(), FsId: &v1.FilesystemIdentifier{Mountpoint: i.Mountpoint},
		UsedBytes: &v1.UInt64Value{Value: i.UsedBytes}, InodesUsed: &v1.UInt64Value{Value: i.Inodes}}
}

func imageOut(img image.Image) *v1.Image {
	out := &v1.Image{Id: img.ID.String(), RepoTags: img.Tags, RepoDigests: img.Digests, Size: uint64(max(img.Size, 0)),
		Spec: &v1.ImageSpec{Image: img.ID.String()}, Pinned: img.Pinned}
	user, _, _ := strings.Cut(img.Config.User, ":")
	if uid, err := strconv.ParseUint(user, 10, 31); err == nil {
		out.Uid = &v1.Int64Value{Value: int64(uid)}
	} else {
		out.Username = user // the kubelet refuses it where runAsNonRoot wants a number
	}
	return out
}
