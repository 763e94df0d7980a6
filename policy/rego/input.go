package rego

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"sallyport/policy"
)

// The input document. schema/input.json is generated from these types, and every field of it is
// always present: an absent text is "", an absent list is [], and only an absent number, where 0
// means something, is null.
type (
	input struct {
		Verb      string               `json:"verb"`
		Time      string               `json:"time"` // judged time, RFC 3339 with nanoseconds, UTC
		TimeNS    int64                `json:"time_ns"`
		Namespace string               `json:"namespace"` // "" for a pull without one
		Image     image                `json:"image"`
		Volume    string               `json:"volume"` // where the container sees the image, if it is a volume; "" for its own image
		Claims    []claim              `json:"claims"`
		Pod       pod                  `json:"pod"`
		Container container            `json:"container"`
		Exec      exec                 `json:"exec"`  // of an attach: argv is empty
		Ports     []uint16             `json:"ports"` // of a port-forward; empty until the client names them, then each is judged
		Spec      specs.Spec           `json:"spec"`  // final OCI runtime spec; environment values are hashes
		Resources specs.LinuxResources `json:"resources"`
	}
	image struct {
		Name         string `json:"name"` // as asked for, normalised
		Host         string `json:"host"`
		Repository   string `json:"repository"` // with the host
		Tag          string `json:"tag"`
		Top          string `json:"top"`      // digest that the name resolved to
		Instance     string `json:"instance"` // digest of this platform's manifest
		ID           string `json:"id"`
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
		Artifact     string `json:"artifact"` // type of an OCI artifact; "" for a container image
	}
	// claim is one verified signature or attestation, by anyone whom the trusted root vouches for:
	// compare issuer and san, or keyID, before believing its predicate.
	claim struct {
		Kind          string            `json:"kind"` // keyless or key
		Subject       string            `json:"subject"`
		OfInstance    bool              `json:"ofInstance"` // subject is this platform's manifest
		Issuer        string            `json:"issuer"`
		SAN           string            `json:"san"`
		Root          string            `json:"root"` // trusted root that vouches; "" for trusted_root.json
		KeyID         string            `json:"keyID"`
		PredicateType string            `json:"predicateType"`
		Predicate     any               `json:"predicate"` // null for a signature, and beyond 1 MiB
		Extensions    map[string]string `json:"extensions"`
		Signed        string            `json:"signed"` // earliest verified time, RFC 3339; "" if none
		SignedNS      int64             `json:"signed_ns"`
		Logged        int               `json:"logged"`
		Timestamped   int               `json:"timestamped"`
		SCTs          int               `json:"scts"`
	}
	pod struct {
		Namespace     string            `json:"namespace"`
		Name          string            `json:"name"`
		UID           string            `json:"uid"`
		Attempt       uint32            `json:"attempt"`
		Handler       string            `json:"handler"`
		HostNetwork   bool              `json:"hostNetwork"`
		HostPID       bool              `json:"hostPID"`
		HostIPC       bool              `json:"hostIPC"`
		UserNamespace bool              `json:"userNamespace"`
		SharedPID     bool              `json:"sharedPID"`
		UIDs          []idMapping       `json:"uidMappings"` // of the user namespace
		GIDs          []idMapping       `json:"gidMappings"`
		Privileged    bool              `json:"privileged"`
		Sysctls       map[string]string `json:"sysctls"`
		Labels        map[string]string `json:"labels"`
		Annotations   map[string]string `json:"annotations"`
	}
	idMapping struct {
		Container uint32 `json:"container"`
		Host      uint32 `json:"host"`
		Length    uint32 `json:"length"`
	}
	container struct {
		Name        string            `json:"name"`
		ID          string            `json:"id"`
		Attempt     uint32            `json:"attempt"`
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
		Privileged  bool              `json:"privileged"`
		Weakenings  []string          `json:"weakenings"`
	}
	exec struct {
		Argv  []string `json:"argv"`
		TTY   bool     `json:"tty"`
		Probe bool     `json:"probe"`
	}
)

// inputOf makes the input document of an act.
func inputOf(act policy.Act, claims []policy.Claim) (ast.Value, error) {
	doc, err := documentOf(act, claims)
	if err != nil {
		return nil, err
	}
	return ast.InterfaceToValue(doc)
}

// documentOf is the input document as JSON values.
func documentOf(act policy.Act, claims []policy.Claim) (any, error) {
	if err := bound(act, claims); err != nil {
		return nil, err
	}
	in := input{Verb: string(act.Verb), Time: act.Now.UTC().Format(time.RFC3339Nano), TimeNS: act.Now.UnixNano(), Namespace: act.Namespace, Volume: act.Volume, Ports: act.Ports}
	if i := act.Image; i != nil {
		in.Image = image{i.Name.String(), i.Name.Host(), i.Name.Repository(), i.Name.Tag(), i.Top.String(), i.Instance.String(), i.ID.String(), i.OS, i.Arch, i.Artifact}
	}
	if p := act.Pod; p != nil {
		in.Pod = pod{p.Namespace, p.Name, p.UID, p.Attempt, p.Handler, p.HostNetwork, p.HostPID, p.HostIPC, p.UserNamespace, p.SharedPID,
			mappings(p.UIDs), mappings(p.GIDs), p.Privileged, p.Sysctls, p.Labels, p.Annotations}
	}
	if c := act.Container; c != nil {
		in.Container = container{c.Name, c.ID, c.Attempt, c.Labels, c.Annotations, c.Privileged, c.Weakenings}
	}
	if x := act.Exec; x != nil {
		in.Exec = exec{x.Argv, x.TTY, x.Probe}
	}
	for _, c := range claims {
		out, err := claimOf(c, act.Image)
		if err != nil {
			return nil, err
		}
		in.Claims = append(in.Claims, out)
	}
	if err := decode(act.Spec, &in.Spec); err != nil {
		return nil, fmt.Errorf("read spec: %w", err)
	}
	if err := decode(act.Resources, &in.Resources); err != nil {
		return nil, fmt.Errorf("read resources: %w", err)
	}
	return whole(reflect.ValueOf(in)), nil
}

func mappings(in []policy.IDMapping) (out []idMapping) {
	for _, m := range in {
		out = append(out, idMapping(m))
	}
	return out
}

func claimOf(c policy.Claim, img *policy.Image) (claim, error) {
	f := c.Fields()
	out := claim{Kind: f.Kind, Subject: f.Subject.String(), OfInstance: img != nil && !f.Subject.IsZero() && f.Subject == img.Instance,
		Issuer: f.Issuer, SAN: f.SAN, Root: f.Root, KeyID: f.KeyID, PredicateType: f.PredicateType, Extensions: f.Extensions,
		Logged: f.Logged, Timestamped: f.Timestamped, SCTs: f.SCTs}
	if !f.Signed.IsZero() {
		out.Signed, out.SignedNS = f.Signed.UTC().Format(time.RFC3339Nano), f.Signed.UnixNano()
	}
	if f.Predicate != nil {
		dec := json.NewDecoder(bytes.NewReader(f.Predicate))
		dec.UseNumber()
		if err := dec.Decode(&out.Predicate); err != nil {
			return out, fmt.Errorf("read predicate of type %q: %w", f.PredicateType, err)
		}
	}
	return out, nil
}

// decode reads one JSON value strictly: a field that the schema does not have could hide from every
// rule. No text leaves into as it is.
func decode(text json.RawMessage, into any) error {
	if len(text) == 0 {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more follows the first value")
	}
	if s, ok := into.(*specs.Spec); ok && (s.Windows != nil || s.Solaris != nil || s.VM != nil || s.ZOS != nil || s.FreeBSD != nil) {
		return errors.New("it is for another operating system")
	}
	return nil
}

// bound refuses inputs that would take long merely to read.
func bound(act policy.Act, claims []policy.Claim) error {
	n := len(act.Spec) + len(act.Resources)
	for _, c := range claims {
		n += len(c.Fields().Predicate)
	}
	count := func(m map[string]string) {
		for k, v := range m {
			n += len(k) + len(v)
		}
	}
	if p := act.Pod; p != nil {
		count(p.Labels)
		count(p.Annotations)
		count(p.Sysctls)
	}
	if c := act.Container; c != nil {
		count(c.Labels)
		count(c.Annotations)
	}
	if x := act.Exec; x != nil {
		for _, a := range x.Argv {
			n += len(a)
		}
	}
	if n > maxInput {
		return fmt.Errorf("the facts have %d bytes, more than the limit of %d", n, maxInput)
	}
	return nil
}
