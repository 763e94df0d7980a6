package enforce

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
)

// redact replaces the value of every environment variable by its HMAC under the node's key, so that
// Rego and the log can compare values and never read them.
func redact(spec, key []byte) (json.RawMessage, error) {
	var top map[string]json.RawMessage
	if err := json.Unmarshal(spec, &top); err != nil {
		return nil, fmt.Errorf("parse spec: %w", err)
	}
	raw, ok := top["process"]
	if !ok {
		return spec, nil
	}
	var process map[string]json.RawMessage
	if err := json.Unmarshal(raw, &process); err != nil {
		return nil, fmt.Errorf("parse process: %w", err)
	}
	var env []string
	if e, ok := process["env"]; ok {
		if err := json.Unmarshal(e, &env); err != nil {
			return nil, fmt.Errorf("parse environment: %w", err)
		}
	}
	for i, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(value))
		env[i] = name + "=hmac:" + hex.EncodeToString(mac.Sum(nil)[:16])
	}
	var err error
	if process["env"], err = json.Marshal(env); err != nil {
		return nil, fmt.Errorf("redact environment: %w", err)
	}
	if top["process"], err = json.Marshal(process); err != nil {
		return nil, fmt.Errorf("redact process: %w", err)
	}
	return json.Marshal(top)
}
