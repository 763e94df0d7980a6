package fetch

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sallyport/image/ref"
	"sallyport/policy/bundle/layout"
)

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	indexType    = "application/vnd.oci.image.index.v1+json"
	emptyType    = "application/vnd.oci.empty.v1+json"
)

// Listing is one policy, or the root, as an index lists it, with the blobs and manifests to upload first.
type Listing struct {
	Blobs     map[ref.Digest][]byte
	Manifests map[ref.Digest][]byte
	entries   []json.RawMessage
	places    []string // that it is for; "" is the root
}

// ListLayout takes an OCI layout of a policy with its signatures.
func ListLayout(files map[string][]byte) (Listing, error) {
	a, err := layout.Open(files)
	if err != nil {
		return Listing{}, err
	}
	var idx struct {
		Manifests []json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(files["index.json"], &idx); err != nil {
		return Listing{}, fmt.Errorf("read index.json: %w", err)
	}
	l := Listing{Blobs: map[ref.Digest][]byte{}, Manifests: map[ref.Digest][]byte{}, places: places(a.Config)}
	for _, raw := range idx.Manifests {
		var d descriptor
		if err := json.Unmarshal(raw, &d); err != nil {
			return Listing{}, fmt.Errorf("read index.json: %w", err)
		}
		l.Manifests[d.Digest] = files["blobs/sha256/"+d.Digest.Hex()]
		if d.Digest == a.Digest {
			d.Annotations = map[string]string{placesAnnotation: strings.Join(l.places, " ")}
			if raw, err = json.Marshal(d); err != nil {
				return Listing{}, fmt.Errorf("read index.json: %w", err)
			}
		}
		l.entries = append(l.entries, raw)
	}
	for name, data := range files {
		if d := ref.DigestOf(data); strings.HasPrefix(name, "blobs/") && l.Manifests[d] == nil {
			l.Blobs[d] = data
		}
	}
	return l, nil
}

// ListRoot takes root.json and the files of roots/, by their names.
func ListRoot(files map[string][]byte) (Listing, error) {
	l := Listing{Blobs: map[ref.Digest][]byte{}, Manifests: map[ref.Digest][]byte{}, places: []string{""}}
	put := func(data []byte, mediaType string) descriptor {
		l.Blobs[ref.DigestOf(data)] = data
		return descriptor{MediaType: mediaType, Digest: ref.DigestOf(data), Size: int64(len(data))}
	}
	config := put([]byte("{}"), emptyType)
	var layers []descriptor
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !rootFile.MatchString(name) || len(files[name]) > maxRootFile {
			return Listing{}, fmt.Errorf("list root: file %.80q; want root.json and files of roots/, of at most %d bytes", name, maxRootFile)
		}
		d := put(files[name], "application/json")
		d.Annotations = map[string]string{TitleAnnotation: name}
		layers = append(layers, d)
	}
	text, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifestType, "artifactType": RootType, "config": config, "layers": layers})
	if err != nil {
		return Listing{}, fmt.Errorf("list root: %w", err)
	}
	at := ref.DigestOf(text)
	l.Manifests[at] = text
	entry, err := json.Marshal(descriptor{MediaType: manifestType, ArtifactType: RootType, Digest: at, Size: int64(len(text))})
	l.entries = []json.RawMessage{entry}
	return l, err
}

func places(c layout.Config) (out []string) {
	if c.Node {
		return []string{"node"}
	}
	for _, n := range c.Namespaces {
		out = append(out, "namespaces/"+n)
	}
	return out
}

// Index is the index to put under the tag, last: before's entries (nil: there is none yet), but for the
// policies that list replaces whole, and those of list. manifest returns a manifest that before names.
func Index(before []byte, manifest func(ref.Digest) ([]byte, error), list ...Listing) ([]byte, error) {
	replaced := map[string]bool{}
	out := []json.RawMessage{}
	fresh := map[ref.Digest]bool{}
	for _, l := range list {
		for _, p := range l.places {
			replaced[p] = true
		}
		for _, raw := range l.entries {
			var d descriptor
			if err := json.Unmarshal(raw, &d); err != nil {
				return nil, fmt.Errorf("make index: %w", err)
			}
			if !fresh[d.Digest] {
				fresh[d.Digest] = true
				out = append(out, raw)
			}
		}
	}
	var old struct {
		Manifests []json.RawMessage `json:"manifests"`
	}
	if before != nil {
		if err := json.Unmarshal(before, &old); err != nil {
			return nil, fmt.Errorf("read index: %w", err)
		}
	}
	gone := map[ref.Digest]bool{} // policies whose signatures go with them
	for pass := range 2 {         // policies and roots before what is about them
		for _, raw := range old.Manifests {
			var d descriptor
			if err := json.Unmarshal(raw, &d); err != nil || d.Digest.IsZero() || fresh[d.Digest] {
				continue
			}
			text, err := manifest(d.Digest)
			if err != nil {
				return nil, err
			}
			var doc document
			if err := json.Unmarshal(text, &doc); err != nil {
				return nil, fmt.Errorf("read manifest %s: %w", d.Digest, err)
			}
			if about := doc.Subject; (about != nil) != (pass == 1) || about != nil && gone[about.Digest] {
				continue
			}
			if pass == 0 && superseded(d, replaced) {
				gone[d.Digest] = true
				continue
			}
			out = append(out, raw)
		}
	}
	return json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": out})
}

// placesAnnotation says on an entry of an index for whom a policy is, so that who pushes another need
// not read it. Nodes go by what is signed.
const placesAnnotation = "io.sallyport.policy.places"

// superseded reports whether all places of an old entry are replaced.
func superseded(d descriptor, replaced map[string]bool) bool {
	if d.ArtifactType == RootType {
		return replaced[""]
	}
	of := d.Annotations[placesAnnotation]
	if of == "" {
		return false // whose it is nobody says; of two policies nodes take the newer
	}
	for p := range strings.SplitSeq(of, " ") {
		if !replaced[p] {
			return false
		}
	}
	return true
}
