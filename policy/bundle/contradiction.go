package bundle

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"sallyport/policy"
)

// contradiction finds a scope that policy.json rejects and a requirement that says who may sign the
// same images: both cannot be meant.
func contradiction(policyJSON []byte, reqs *policy.Requirements) error {
	var doc struct {
		Transports map[string]map[string][]struct {
			Type string `json:"type"`
		} `json:"transports"`
	}
	if err := json.Unmarshal(policyJSON, &doc); err != nil {
		return fmt.Errorf("policy.json: %w", err)
	}
	globs := reqs.Globs()
	scopes := doc.Transports["docker"]
	for _, scope := range slices.Sorted(maps.Keys(scopes)) {
		rejects := false
		for _, r := range scopes[scope] {
			rejects = rejects || r.Type == "reject"
		}
		if !rejects {
			continue
		}
		same := []string{scope, scope + "/*", scope + "/**"}
		if scope == "" {
			same = []string{"**"}
		}
		for _, name := range slices.Sorted(maps.Keys(globs)) {
			for _, g := range globs[name] {
				if slices.Contains(same, g) {
					return fmt.Errorf("policy.json and requirements.yaml contradict each other: scope %q is rejected, policy %q says who may sign %q", scope, name, g)
				}
			}
		}
	}
	return nil
}
