package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// pki makes the cluster's certificates. All keys are ECDSA P-256; the files are readable by root alone.
type pki struct {
	dir    string
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	caPEM  []byte
	serial int64
	from   time.Time
}

func newPKI(dir string, now time.Time) (*pki, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", dir, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	p := &pki{dir: dir, caKey: key, from: now.Add(-time.Hour)}
	p.ca = p.template(pkix.Name{CommonName: "barelb-lab"})
	p.ca.IsCA, p.ca.BasicConstraintsValid = true, true
	p.ca.KeyUsage |= x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, p.ca, p.ca, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	p.caPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	// The key that signs service account tokens.
	account, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	accountPEM, err := encodeKey(account)
	if err != nil {
		return nil, err
	}
	return p, errors.Join(p.write("ca.crt", p.caPEM), p.write("sa.key", accountPEM))
}

func (p *pki) template(subject pkix.Name) *x509.Certificate {
	p.serial++
	return &x509.Certificate{
		SerialNumber: big.NewInt(p.serial),
		Subject:      subject,
		NotBefore:    p.from,
		NotAfter:     p.from.AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
}

// issue makes a certificate for client and server use and its key, both in PEM.
func (p *pki) issue(subject pkix.Name, names []string, addrs ...netip.Addr) (cert, key []byte, err error) { //nolint:nonamedreturns // tells the two apart
	t := p.template(subject)
	t.DNSNames = names
	for _, a := range addrs {
		t.IPAddresses = append(t.IPAddresses, net.IP(a.AsSlice())) //nolint:forbidigo // what x509 takes
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generate key: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, p.ca, k.Public(), p.caKey)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate of %s: %w", subject.CommonName, err)
	}
	key, err = encodeKey(k)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key, err
}

// server writes NAME.crt and NAME.key of a server.
func (p *pki) server(name string, names []string, addrs ...netip.Addr) error {
	cert, key, err := p.issue(pkix.Name{CommonName: name}, names, addrs...)
	if err != nil {
		return err
	}
	return errors.Join(p.write(name+".crt", cert), p.write(name+".key", key))
}

// user writes NAME.kubeconfig, with which a user of a group talks to the API server at an address.
func (p *pki) user(name, server, user string, groups ...string) error {
	cert, key, err := p.issue(pkix.Name{CommonName: user, Organization: groups}, nil)
	if err != nil {
		return err
	}
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["lab"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: p.caPEM}
	cfg.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	cfg.Contexts["lab"] = &clientcmdapi.Context{Cluster: "lab", AuthInfo: name}
	cfg.CurrentContext = "lab"
	text, err := clientcmd.Write(*cfg)
	if err != nil {
		return fmt.Errorf("encode kubeconfig of %s: %w", name, err)
	}
	return p.write(name+".kubeconfig", text)
}

func (p *pki) path(file string) string { return filepath.Join(p.dir, file) }

func (p *pki) write(file string, text []byte) error {
	if err := os.WriteFile(p.path(file), text, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

// encodeKey uses the form that the API server takes for service account keys too.
func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}
