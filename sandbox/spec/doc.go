// Package spec holds our own pod and container configuration types, and the pure function from them to
// a hardened OCI runtime spec. It reads no file, asks no kernel and knows no clock: everything that it
// needs of the world is in its Input, so the same input gives the same bytes, which are judged, hashed
// into the audit record and read by the OCI runtime.
//
// Build starts from nothing allowed and adds. What a pod asks beyond that is a request to weaken, and
// the baseline.Floor of its namespace answers it: refused by name, overridden and recorded, or granted
// and recorded. What an image says is hostile text and can never weaken anything.
//
// Every path in the spec is a fixed name relative to the OCI runtime's bundle directory (rootfs,
// mounts/0, mounts/1, ...), except the paths of pinned namespaces and the cgroup path.
package spec
