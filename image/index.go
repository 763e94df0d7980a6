package image

import (
	"slices"
	"sort"
	"strings"
	"sync"

	"sallyport/image/ref"
)

// index is all records in memory, so that List, Status and look-ups never touch the disk.
type index struct {
	mu     sync.RWMutex                        // guards all; never held over disk or network
	byID   map[ref.Digest]map[ref.Name]*record // image ID, then name
	byTag  map[ref.Name]*record                // repository:tag
	stale  map[ref.Name]bool                   // names that Status must not answer
	faults []string
	layers map[ref.Digest]*heldLayer // by blob digest
	chains map[ref.Digest]*chainUse  // by chain ID: sizes and users, for FsInfo
}

// heldLayer is a blob that was downloaded and hashed.
type heldLayer struct {
	layer
	namespaces map[string]int // that hashed it themselves -> records that say so
	origins    map[string]int // hosts that first served it
}

type chainUse struct {
	layer
	records int
}

func newIndex() *index {
	return &index{byID: map[ref.Digest]map[ref.Name]*record{}, byTag: map[ref.Name]*record{},
		stale: map[ref.Name]bool{}, layers: map[ref.Digest]*heldLayer{}, chains: map[ref.Digest]*chainUse{}}
}

func (x *index) problem(text string) { x.mu.Lock(); x.faults = append(x.faults, text); x.mu.Unlock() }

func (x *index) problems() []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Clone(x.faults)
}

// put adds or replaces a record and clears the stale mark of its name.
func (x *index) put(r *record) {
	x.mu.Lock()
	defer x.mu.Unlock()
	names := x.byID[r.ID]
	if names == nil {
		names = map[ref.Name]*record{}
		x.byID[r.ID] = names
	}
	if old := names[r.Name]; old != nil {
		x.count(old, -1)
	}
	names[r.Name] = r
	if r.Name.Tag() != "" {
		x.byTag[r.Name] = r
	}
	delete(x.stale, r.Name)
	x.count(r, 1)
}

func (x *index) drop(r *record) {
	x.mu.Lock()
	defer x.mu.Unlock()
	names := x.byID[r.ID]
	if names[r.Name] != r {
		return
	}
	delete(names, r.Name)
	if len(names) == 0 {
		delete(x.byID, r.ID)
	}
	if x.byTag[r.Name] == r {
		delete(x.byTag, r.Name)
	}
	delete(x.stale, r.Name)
	x.count(r, -1)
}

func (x *index) count(r *record, by int) {
	for _, l := range r.Layers {
		h := x.layers[l.Blob]
		if h == nil {
			h = &heldLayer{layer: l, namespaces: map[string]int{}, origins: map[string]int{}}
			x.layers[l.Blob] = h
		}
		for _, ns := range r.Proved {
			if h.namespaces[ns] += by; h.namespaces[ns] == 0 {
				delete(h.namespaces, ns)
			}
		}
		if h.origins[l.Origin] += by; h.origins[l.Origin] == 0 {
			delete(h.origins, l.Origin)
		}
		if len(h.origins) == 0 {
			delete(x.layers, l.Blob)
		}
		c := x.chains[l.Chain]
		if c == nil {
			c = &chainUse{layer: l}
			x.chains[l.Chain] = c
		}
		if c.records += by; c.records == 0 {
			delete(x.chains, l.Chain)
		}
	}
}

// held says who has hashed a blob: whether namespace itself did, and whether host first served it.
func (x *index) held(blob ref.Digest, namespace, host string) (l layer, byNamespace, byHost bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	h := x.layers[blob]
	if h == nil {
		return layer{}, false, false
	}
	return h.layer, h.namespaces[namespace] > 0, h.origins[host] > 0
}

// tagged is the record that a tag names now.
func (x *index) tagged(n ref.Name) *record {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.byTag[n]
}

// records of one image, sorted by name.
func (x *index) records(id ref.Digest) []*record {
	x.mu.RLock()
	defer x.mu.RUnlock()
	out := make([]*record, 0, len(x.byID[id]))
	for _, r := range x.byID[id] {
		out = append(out, r)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name.String() < out[j].Name.String() })
	return out
}

// instance is a record of one image with this manifest.
func (x *index) instance(id, instance ref.Digest) *record {
	for _, r := range x.records(id) {
		if r.Instance == instance {
			return r
		}
	}
	return nil
}

// chain is what is known of a layer in storage.
func (x *index) chain(id ref.Digest) layer {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if c := x.chains[id]; c != nil {
		return c.layer
	}
	return layer{}
}

// withChain are the records of all images that have a layer.
func (x *index) withChain(chain ref.Digest) (out []*record) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, names := range x.byID {
		for _, r := range names {
			if slices.ContainsFunc(r.Layers, func(l layer) bool { return l.Chain == chain }) {
				out = append(out, r)
			}
		}
	}
	return out
}

func (x *index) ids() []ref.Digest {
	x.mu.RLock()
	defer x.mu.RUnlock()
	out := make([]ref.Digest, 0, len(x.byID))
	for id := range x.byID {
		out = append(out, id)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Hex() < out[j].Hex() })
	return out
}

// find turns what a user or the kubelet wrote into an image ID: a name, an image ID, or an
// unambiguous beginning of one (4 hex digits or more).
func (x *index) find(s string) (ref.Digest, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	hexes := trimID(s)
	if id, err := ref.ParseDigest("sha256:" + hexes); err == nil {
		_, ok := x.byID[id]
		return id, ok
	}
	if n, err := ref.Parse(s); err == nil {
		r := x.named(canonical(n))
		if r == nil {
			return ref.Digest{}, false
		}
		return r.ID, true
	}
	var found ref.Digest
	if len(hexes) < 4 {
		return found, false
	}
	for id := range x.byID {
		if strings.HasPrefix(id.Hex(), hexes) {
			if !found.IsZero() {
				return ref.Digest{}, false
			}
			found = id
		}
	}
	return found, !found.IsZero()
}

// named finds the record for a canonical name. A digest names index, instance or both of any record of
// the same repository, since the digest proves itself.
func (x *index) named(n ref.Name) *record {
	if n.Digest().IsZero() {
		return x.byTag[n]
	}
	for _, names := range x.byID {
		if r := pick(names, n); r != nil {
			return r
		}
	}
	return nil
}

func pick(names map[ref.Name]*record, n ref.Name) *record {
	if r := names[n]; r != nil {
		return r
	}
	if n.Digest().IsZero() {
		return nil
	}
	var best *record
	for _, r := range names {
		if r.Name.Repository() == n.Repository() && (r.Top == n.Digest() || r.Instance == n.Digest()) {
			if best == nil || r.Pulled.After(best.Pulled) {
				best = r
			}
		}
	}
	return best
}

// canonical drops the tag of a name that has a digest too: nothing proves that the tag ever pointed
// there.
func canonical(n ref.Name) ref.Name {
	if !n.Digest().IsZero() {
		return n.WithDigest(n.Digest())
	}
	return n
}

// pick finds the record of one image under a canonical name.
func (x *index) pick(id ref.Digest, n ref.Name) *record {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return pick(x.byID[id], n)
}

func (x *index) isStale(n ref.Name) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.stale[n]
}

// markStale marks a name that some record has; others are not remembered.
func (x *index) markStale(n ref.Name) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.named(n) != nil {
		x.stale[n] = true
	}
}

// usage sums the layers that records name, each once.
func (x *index) usage() (bytes, inodes uint64) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, c := range x.chains {
		bytes += uint64(c.Size)
		inodes += c.Inodes
	}
	return bytes, inodes
}

func trimID(s string) string { return strings.TrimPrefix(s, "sha256:") }
