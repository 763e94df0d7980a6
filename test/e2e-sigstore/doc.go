// Package e2esigstore lets a real sigstore sign and attest, stops it, and then drives pulls and creates
// through the CRI socket of the real daemon, in a network namespace without a route: "make e2e-sigstore".
// Its tests need the build tag sigstore, since the servers take minutes to build; what cosign wrote there
// is kept in policy/sigstore/testdata, where every "make test" judges it.
package e2esigstore
