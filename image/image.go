package image

import (
	"errors"
	"time"

	"sallyport/enforce"
	"sallyport/image/internal/registry"
	"sallyport/image/ref"
)

// What a caller branches on. Every error names the image in one line.
var (
	ErrNotFound     = registry.ErrNotFound     // the registry has no such image, or the store has not
	ErrUnauthorized = registry.ErrUnauthorized // the registry refused these credentials
	ErrUnavailable  = registry.ErrUnavailable  // the registry did not answer usefully: network, 5xx, 429, timeout
	ErrInvalid      = errors.New("image is invalid")
	ErrCorrupt      = errors.New("RootfsDigestMismatch")
	ErrInUse        = errors.New("image is in use")
	ErrLocked       = errors.New("another daemon uses it")
	ErrGrant        = errors.New("the grant is not for this")
)

// Credentials authenticate to one registry, the one in the image name: mirrors do not get them, nor
// does a host that the registry redirects to. Without any, those of Namespace are used
// (Options.NamespaceAuthDir), or else the node's own (Options.AuthFile), or none.
type Credentials struct {
	Username, Password string
	IdentityToken      string // OAuth2 refresh token
	RegistryToken      string // bearer token, used as it is

	Namespace string // in whose name the pull is; "" has no credentials of its own
}

// Image is one image in the store as CRI shows it: an image ID with all its verified names. It is an
// immutable snapshot; do not change the slices and maps.
type Image struct {
	ID      ref.Digest // of the config
	Tags    []string   // repository:tag, sorted
	Digests []string   // repository@digest of index and instance, sorted
	Size    int64      // bytes of the unpacked layers, the manifest and the config
	Config  Config
	Pinned  bool      // never to be garbage collected
	Pulled  time.Time // latest pull
}

// Candidate is one verification record of an image: facts and stored evidence, not permission.
type Candidate struct {
	Image    enforce.Image
	Evidence enforce.Evidence
	Config   Config
	// Private says that the image was pulled with credentials of a pod or a namespace. It is then usable only in the
	// namespaces in Proved, which have pulled it themselves.
	Private bool
	Proved  []string
}

// UsableIn reports whether namespace may use the stored copy without proving access to the registry.
func (c Candidate) UsableIn(namespace string) bool {
	if !c.Private {
		return true
	}
	for _, ns := range c.Proved {
		if ns == namespace && ns != "" {
			return true
		}
	}
	return false
}

// FsInfo is what the image filesystem holds.
type FsInfo struct {
	Mountpoint string
	UsedBytes  uint64 // unpacked image layers
	Inodes     uint64 // entries of the unpacked image layers
	Timestamp  time.Time
}

// Rootfs is a mounted root filesystem of one container.
type Rootfs struct {
	Path string // absolute
}
