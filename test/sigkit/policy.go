package sigkit

import (
	"encoding/json"
	"fmt"
	"time"

	"sallyport/image/ref"
	"sallyport/policy/bundle/layout"
)

// PolicyRoot says who may sign what in a root.json of one key each.
type PolicyRoot struct {
	Version    int
	Root, Node *Key
	Namespaces map[string]*Key // by pattern
}

// Files are root.json and its signature as they lie in a policy directory. Further signers, such as those
// of the version before, sign it too.
func (r PolicyRoot) Files(also ...*Key) (map[string]string, error) {
	keys := map[string]any{}
	role := func(k *Key) map[string]any {
		keys[k.ID()[:12]] = map[string]string{"publicKey": string(k.PEM())}
		return map[string]any{"signers": []string{k.ID()[:12]}, "threshold": 1}
	}
	namespaces := []any{}
	for pattern, k := range r.Namespaces {
		n := role(k)
		n["pattern"] = pattern
		namespaces = append(namespaces, n)
	}
	text, err := json.Marshal(map[string]any{
		"schema": "sallyport.policy-root/v1", "version": r.Version, "expires": time.Now().AddDate(1, 0, 0).UTC().Format(time.RFC3339),
		"root": role(r.Root), "node": role(r.Node), "namespaces": namespaces, "keys": keys,
	})
	if err != nil {
		return nil, err
	}
	out := map[string]string{"root.json": string(text), fmt.Sprintf("roots/%d.json", r.Version): string(text)}
	for _, k := range append([]*Key{r.Root}, also...) {
		b, err := SignKey(k, ref.DigestOf(text))
		if err != nil {
			return nil, err
		}
		out[fmt.Sprintf("roots/%d.%.12s.sigstore.json", r.Version, k.ID())] = string(b)
	}
	return out, nil
}

// SignedPolicy are the files of a policy's OCI layout under dir, signed by each key.
func SignedPolicy(dir string, c layout.Config, files map[string]string, by ...*Key) (map[string]string, error) {
	var in map[string][]byte
	if !c.Tombstone {
		in = map[string][]byte{}
		for name, text := range files {
			in[name] = []byte(text)
		}
	}
	l, d, err := layout.Build(c, in)
	for _, k := range by {
		var b []byte
		if err == nil {
			b, err = SignKey(k, d)
		}
		if err == nil {
			l, err = layout.Attach(l, b)
		}
	}
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for name, data := range l {
		out[dir+"/"+name] = string(data)
	}
	return out, nil
}
