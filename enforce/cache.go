package enforce

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"sync"
	"time"

	"sallyport/policy"
)

// cacheLife bounds how long a verdict without an end of its own is kept: rules of age are judged anew
// at least this often.
const cacheLife = 5 * time.Minute

// verdictCache keeps image verdicts, one per layer, by the content of everything that they rest on:
// layer and its hash, name, digests, platform and every byte of evidence. Never by tag alone, never
// without the namespace (its layer), never a fault.
type verdictCache struct {
	most int // constant
	mu   sync.Mutex
	kept map[[32]byte]kept // guarded by mu
}

type kept struct {
	verdict policy.Verdict
	from    time.Time
	until   time.Time
}

func newVerdictCache(most int) *verdictCache {
	return &verdictCache{most: most, kept: map[[32]byte]kept{}}
}

// judge answers from the cache or asks the layer.
func (c *verdictCache) judge(ctx context.Context, l *policy.Layer, img Image, ev Evidence, now time.Time) policy.Verdict {
	if l == nil {
		return l.JudgeImage(ctx, img, ev, now)
	}
	key := verdictKey(l, img, ev)
	c.mu.Lock()
	k, ok := c.kept[key]
	c.mu.Unlock()
	if ok && !now.Before(k.from) && now.Before(k.until) {
		return k.verdict
	}
	v := l.JudgeImage(ctx, img, ev, now)
	if v.Transient() {
		return v
	}
	end := now.Add(cacheLife)
	if u := v.Until(); !u.IsZero() && u.Before(end) {
		end = u
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.kept) >= c.most {
		for old := range c.kept { // any: a miss costs a few milliseconds
			delete(c.kept, old)
			break
		}
	}
	c.kept[key] = kept{v, now, end}
	return v
}

func (c *verdictCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.kept)
}

func verdictKey(l *policy.Layer, img Image, ev Evidence) (key [32]byte) {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q %q %q %q %q %q %q\n", l.Name, l.Hash, img.Name, img.Top, img.Instance, img.ID, img.OS, img.Arch, img.Artifact)
	// The manifests are not hashed here: bound has compared them with the digests above.
	for _, b := range ev.Bundles {
		field(h, b.Subject.String(), b.ArtifactType, string(b.JSON))
	}
	fmt.Fprintf(h, "simple %t %q\n", ev.Complete, ev.Missing)
	for _, s := range ev.Simple {
		field(h, s.Subject.String(), s.MediaType, string(s.Payload), hashOf(s.Annotations))
	}
	h.Sum(key[:0])
	return key
}

// field writes strings so that no two lists write the same bytes.
func field(h hash.Hash, parts ...string) {
	for _, p := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
}
