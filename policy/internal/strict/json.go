package strict

import (
	"encoding/json"
	"errors"
)

// DecodeJSON is Decode for a JSON document, with the rules that encoding/json does not have: field
// names are compared exactly, and none may come twice. into carries yaml tags.
func DecodeJSON(data []byte, into any) error {
	if len(data) <= MaxFile && !json.Valid(data) {
		return errors.New("not one JSON document")
	}
	return Decode(data, into)
}
