package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What Version answers. The kubelet accepts API version v1 alone.
const (
	runtimeName = "sallyport"
	apiVersion  = "v1"
)

// PolicyEnforced is the condition that tells whether every act passes a policy. It never clears
// RuntimeReady: policy trouble must not evict a fleet.
const PolicyEnforced = "PolicyEnforced"

// Version names the daemon.
func (s *Server) Version(context.Context, *v1.VersionRequest) (*v1.VersionResponse, error) {
	return &v1.VersionResponse{Version: "0.1.0", RuntimeName: runtimeName, RuntimeVersion: s.o.Version, RuntimeApiVersion: apiVersion}, nil
}

// Status tells what is ready. It waits for nothing but the CNI plugins' own STATUS, which is asked every few seconds at most.
func (s *Server) Status(ctx context.Context, req *v1.StatusRequest) (*v1.StatusResponse, error) {
	resp := &v1.StatusResponse{
		Status: &v1.RuntimeStatus{Conditions: []*v1.RuntimeCondition{
			{Type: v1.RuntimeReady, Status: true},
			s.networkCondition(ctx),
			s.policyCondition(),
		}},
		Features: &v1.RuntimeFeatures{SupplementalGroupsPolicy: true, UserNamespacesHostNetwork: s.anyUserNamespaces(), MountOptions: true},
	}
	for _, h := range s.o.Handlers {
		f := &v1.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: h.Host.RecursiveRO, UserNamespaces: h.UserNamespaces}
		resp.RuntimeHandlers = append(resp.RuntimeHandlers, &v1.RuntimeHandler{Name: h.Name, Features: f})
		if h.Name == s.o.Default {
			resp.RuntimeHandlers = append(resp.RuntimeHandlers, &v1.RuntimeHandler{Name: "", Features: f})
		}
	}
	if req.GetVerbose() {
		info, err := json.Marshal(map[string]any{"gate": s.gateInfo(), "host": s.handler("").Host, "handlers": s.handlerInfo()})
		if err != nil {
			return nil, toStatus(fmt.Errorf("describe status: %w", err))
		}
		resp.Info = map[string]string{"sallyport": string(info)}
	}
	return resp, nil
}

func (s *Server) networkCondition(ctx context.Context) *v1.RuntimeCondition {
	c := &v1.RuntimeCondition{Type: v1.NetworkReady, Status: true}
	if err := s.o.NetworkStatus(ctx); err != nil {
		c.Status, c.Reason, c.Message = false, "NetworkPluginNotReady", err.Error()
	}
	return c
}

// policyCondition is false, with a reason, when something is not enforced or nothing can be admitted.
func (s *Server) policyCondition() *v1.RuntimeCondition {
	st := s.o.Gate.State()
	c := &v1.RuntimeCondition{Type: PolicyEnforced, Status: true, Reason: "PolicyInstalled",
		Message: fmt.Sprintf("node policy %.12s, source %s", st.NodeHash, st.Source)}
	if st.Overrides != "" {
		c.Message += "; " + st.Overrides
	}
	problem := ""
	if s.o.PolicyProblem != nil {
		problem = s.o.PolicyProblem()
	}
	switch {
	case st.AuditErr != nil:
		c.Status, c.Reason, c.Message = false, "AuditLogFailing", st.AuditErr.Error()
	case !st.Installed:
		c.Status, c.Reason = false, "NoPolicy"
		c.Message = "no node policy is installed, everything is denied; install one in /etc/sallyport/policy/node (docs/policy.md)"
		if problem != "" {
			c.Reason, c.Message = "PolicyBroken", problem+"; everything is denied"
		}
	case s.o.SelfTest != nil && s.o.SelfTest() != "":
		c.Status, c.Reason, c.Message = false, "SelfTestFailed", s.o.SelfTest()+"; "+c.Message
		if problem != "" {
			c.Message += "; " + problem
		}
	case problem != "":
		c.Status, c.Reason, c.Message = false, "PolicyBroken", problem+"; "+c.Message
	}
	return c
}

type gateInfo struct {
	Installed bool              `json:"installed"`
	NodeHash  string            `json:"nodeHash"`
	Source    string            `json:"source"`
	Decisions map[string]uint64 `json:"decisions"`
}

func (s *Server) gateInfo() gateInfo {
	st := s.o.Gate.State()
	return gateInfo{st.Installed, st.NodeHash, st.Source, st.Decisions}
}

// RuntimeConfig tells the kubelet which cgroup driver to use.
func (s *Server) RuntimeConfig(context.Context, *v1.RuntimeConfigRequest) (*v1.RuntimeConfigResponse, error) {
	return &v1.RuntimeConfigResponse{Linux: &v1.LinuxRuntimeConfiguration{CgroupDriver: v1.CgroupDriver_CGROUPFS}}, nil
}

// UpdateRuntimeConfig accepts the node's pod CIDR and does nothing: CNI plugins get theirs from their
// own configuration.
func (s *Server) UpdateRuntimeConfig(context.Context, *v1.UpdateRuntimeConfigRequest) (*v1.UpdateRuntimeConfigResponse, error) {
	return &v1.UpdateRuntimeConfigResponse{}, nil
}

// anyUserNamespaces reports whether a handler can give pods user namespaces; then it can on the node's
// network too.
func (s *Server) anyUserNamespaces() bool {
	return slices.ContainsFunc(s.o.Handlers, func(h Handler) bool { return h.UserNamespaces })
}
