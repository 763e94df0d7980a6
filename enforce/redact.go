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
	mac := func(kv string) string {
		name, value, _ := strings.Cut(kv, "=")
		m := hmac.New(sha256.New, key)
		m.Write([]byte(value))
		return name + "=hmac:" + hex.EncodeToString(m.Sum(nil)[:16])
	}
	if err := redactHooks(top, mac); err != nil {
		return nil, err
	}
	raw, ok := top["process"]
	if !ok {
		return json.Marshal(top)
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
		env[i] = mac(kv)
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

// redactHooks does the same to the variables of hooks.
func redactHooks(top map[string]json.RawMessage, mac func(string) string) error {
	raw, ok := top["hooks"]
	if !ok {
		return nil
	}
	var kinds map[string][]map[string]json.RawMessage
	if err := json.Unmarshal(raw, &kinds); err != nil {
		return fmt.Errorf("parse hooks: %w", err)
	}
	for _, list := range kinds {
		for _, hook := range list {
			var env []string
			if e, ok := hook["env"]; ok {
				if err := json.Unmarshal(e, &env); err != nil {
					return fmt.Errorf("parse environment of a hook: %w", err)
				}
				for i, kv := range env {
					env[i] = mac(kv)
				}
				hook["env"], _ = json.Marshal(env) // strings always encode
			}
		}
	}
	var err error
	if top["hooks"], err = json.Marshal(kinds); err != nil {
		return fmt.Errorf("redact hooks: %w", err)
	}
	return nil
}
