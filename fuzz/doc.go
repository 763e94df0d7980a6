// Package fuzz holds one native fuzz target for each parser of bytes that are not ours: image documents,
// evidence, policy, profiles, logs and plugin results. Each asserts an invariant, not only that nothing
// panics; "make fuzz TIME=10s" runs them all.
package fuzz
