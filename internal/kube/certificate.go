package kube

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Keys of a Secret with a certificate, as cert-manager and MetalLB write them too.
const rootsKey = "ca.crt"

const (
	// backdated is how far the clock of who checks a certificate may be behind ours; a
	// quarter of its life, if that is less.
	backdated = 24 * time.Hour
	// formerRoots is how many former roots stay trusted: those of replicas that have yet to
	// hear of the new certificate.
	formerRoots = 2

	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY"
)

// certificate is what a server proves its name with, and what others trust it by. All of
// it is PEM.
type certificate struct {
	chain, key []byte
	roots      []byte // the root of chain first, then former ones
}

// newCertificate makes a certificate for a DNS name that is valid for life from now on,
// and a root for it alone, whose key nobody keeps.
func newCertificate(name string, now time.Time, life time.Duration) (certificate, error) {
	fail := func(err error) (certificate, error) {
		return certificate{}, fmt.Errorf("make a certificate for %s: %w", name, err)
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	root := &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{"barelb"}, CommonName: "root of " + name + " of " + now.UTC().Format(time.RFC3339)},
		NotBefore: now.Add(-min(backdated, life/4)), NotAfter: now.Add(life),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		return fail(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	leaf := &x509.Certificate{
		Subject: pkix.Name{Organization: []string{"barelb"}}, DNSNames: []string{name},
		NotBefore: root.NotBefore, NotAfter: root.NotAfter, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), rootKey)
	if err != nil {
		return fail(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fail(err)
	}
	return certificate{
		chain: pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: leafDER}),
		key:   pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: keyDER}),
		roots: pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: rootDER}),
	}, nil
}

// certificateOf reads the certificate in a Secret, whatever it is worth.
func certificateOf(s *corev1.Secret) certificate {
	return certificate{chain: s.Data[corev1.TLSCertKey], key: s.Data[corev1.TLSPrivateKeyKey], roots: s.Data[rootsKey]}
}

// data is the reverse.
func (c certificate) data() map[string][]byte {
	return map[string][]byte{corev1.TLSCertKey: c.chain, corev1.TLSPrivateKeyKey: c.key, rootsKey: c.roots}
}

// check returns the certificate for a TLS server, and says why it must be replaced, if it
// must: because it does not prove the name now, or because less than a third of its life
// is left.
func (c certificate) check(name string, now time.Time) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(c.chain, c.key)
	if err != nil {
		return nil, err
	}
	chain, err := prove(&pair, c.roots, name, now)
	if err != nil {
		return nil, err
	}
	for _, x := range chain {
		if left := x.NotAfter.Sub(now); left < x.NotAfter.Sub(x.NotBefore)/3 {
			return nil, fmt.Errorf("it expires in %s", left.Round(time.Second))
		}
	}
	return &pair, nil
}

// prove returns the chain from a certificate to one of roots, if it proves the name now.
func prove(pair *tls.Certificate, roots []byte, name string, now time.Time) ([]*x509.Certificate, error) {
	trusted, between := x509.NewCertPool(), x509.NewCertPool()
	trusted.AppendCertsFromPEM(roots)
	for _, der := range pair.Certificate[1:] {
		if x, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(x)
		}
	}
	chains, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: trusted, Intermediates: between, CurrentTime: now})
	if err != nil {
		return nil, err
	}
	return chains[0], nil
}

// trusting returns c with those roots of former that are not expired added to its own.
func (c certificate) trusting(former certificate, now time.Time) certificate {
	added := 0
	for rest := former.roots; added < formerRoots; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		x, err := x509.ParseCertificate(block.Bytes)
		if err != nil || now.After(x.NotAfter) {
			continue
		}
		c.roots = append(bytes.Clone(c.roots), pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: block.Bytes})...)
		added++
	}
	return c
}

var errNoCertificate = errors.New("there is no certificate yet")
