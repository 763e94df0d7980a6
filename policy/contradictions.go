package policy

import "fmt"

// contradictions finds policies that cannot all be meant.
func (r *Requirements) contradictions() error {
	type place struct {
		policy string
		reject bool
	}
	names, globs := map[string]int{}, map[string]place{}
	for i, p := range r.policies {
		if before, seen := names[p.name]; seen {
			return fmt.Errorf("policies[%d].name: %q is the name of policies[%d] too", i, p.name, before)
		}
		names[p.name] = i
		if p.mode == Shadow { // on trial, to see what it contradicts
			continue
		}
		reject := p.authorities[0].static != nil && !p.authorities[0].static.pass
		for j, g := range p.globs {
			before, seen := globs[g.text]
			switch {
			case seen && before.policy == p.name:
				return fmt.Errorf("policies[%d].images[%d].glob: %q stands twice in policy %q", i, j, g.text, p.name)
			case seen && before.reject != reject:
				return fmt.Errorf("policies[%d].images[%d].glob: policies %q and %q contradict each other: one rejects every image of %q, the other says who may sign it", i, j, before.policy, p.name, g.text)
			}
			globs[g.text] = place{p.name, reject}
		}
	}
	return nil
}

// collectKeys lists every key once and refuses one that is given two validity windows.
func (r *Requirements) collectKeys() error {
	seen, at := map[string]string{}, map[string]int{}
	for _, p := range r.policies {
		for _, a := range p.signers() {
			if a.key == nil {
				continue
			}
			before, again := seen[a.key.ID]
			if !again {
				seen[a.key.ID] = p.name
				at[a.key.ID] = len(r.keys)
				r.keys = append(r.keys, *a.key)
				continue
			}
			if k := r.keys[at[a.key.ID]]; !(k.NotBefore.Equal(a.key.NotBefore) && k.NotAfter.Equal(a.key.NotAfter)) {
				return fmt.Errorf("policies %q and %q contradict each other: key %s has two validity windows", before, p.name, short(k.ID))
			}
		}
	}
	return nil
}
