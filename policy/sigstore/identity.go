package sigstore

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"

	"sallyport/policy/internal/claim"
)

var (
	oidSCTList = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2} // RFC 6962, 3.3
	oidSAN     = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// identity is who the certificate says signed. A certificate that names two subjects or two issuers is
// refused: the library would take the first or the last, and a requirement could be shown the other.
func identity(cert *x509.Certificate, sum *certificate.Summary) (claim.Fields, error) {
	if sum == nil {
		return claim.Fields{}, errors.New("certificate was not summarised")
	}
	n, err := sanCount(cert)
	if err != nil {
		return claim.Fields{}, err
	}
	if n != 1 {
		return claim.Fields{}, fmt.Errorf("certificate names %d subjects, want 1", n)
	}
	if sum.Issuer == "" || sum.SubjectAlternativeName == "" {
		return claim.Fields{}, errors.New("certificate names no OIDC issuer or no subject")
	}
	for _, e := range cert.Extensions {
		//lint:ignore SA1019 Fulcio writes both; they must agree
		if e.Id.Equal(certificate.OIDIssuer) && string(e.Value) != sum.Issuer {
			return claim.Fields{}, errors.New("certificate names two OIDC issuers")
		}
		if e.Id.Equal(certificate.OIDIssuerV2) {
			var v2 string
			if err := certificate.ParseDERString(e.Value, &v2); err != nil || v2 != sum.Issuer {
				return claim.Fields{}, errors.New("certificate names two OIDC issuers")
			}
		}
	}
	return claim.Fields{
		Kind: "keyless", Issuer: sum.Issuer, SAN: sum.SubjectAlternativeName, Extensions: extensions(sum.Extensions),
	}, nil
}

// sanCount is the number of subject alternative names, of whatever kind.
func sanCount(cert *x509.Certificate) (int, error) {
	n := 0
	for _, e := range cert.Extensions {
		if !e.Id.Equal(oidSAN) {
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(e.Value, &names); err != nil || len(rest) > 0 {
			return 0, errors.New("certificate's subject alternative names cannot be read")
		}
		n += len(names)
	}
	return n, nil
}

// extensions are Fulcio's claims by the name that they have in its documentation (oid-info.md), those
// that are there. The deprecated GitHub ones are left out: the generic ones say the same.
func extensions(e certificate.Extensions) map[string]string {
	out := map[string]string{}
	for name, value := range map[string]string{
		"BuildSignerURI":                      e.BuildSignerURI,
		"BuildSignerDigest":                   e.BuildSignerDigest,
		"RunnerEnvironment":                   e.RunnerEnvironment,
		"SourceRepositoryURI":                 e.SourceRepositoryURI,
		"SourceRepositoryDigest":              e.SourceRepositoryDigest,
		"SourceRepositoryRef":                 e.SourceRepositoryRef,
		"SourceRepositoryIdentifier":          e.SourceRepositoryIdentifier,
		"SourceRepositoryOwnerURI":            e.SourceRepositoryOwnerURI,
		"SourceRepositoryOwnerIdentifier":     e.SourceRepositoryOwnerIdentifier,
		"BuildConfigURI":                      e.BuildConfigURI,
		"BuildConfigDigest":                   e.BuildConfigDigest,
		"BuildTrigger":                        e.BuildTrigger,
		"RunInvocationURI":                    e.RunInvocationURI,
		"SourceRepositoryVisibilityAtSigning": e.SourceRepositoryVisibilityAtSigning,
	} {
		if value != "" {
			out[name] = value
		}
	}
	return out
}
