package kube

import (
	"bytes"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const hookName = "metallb-webhook-service.metallb-system.svc"

// TestCertificateOverTime: it is good from a day before it was made, by the clock of an API
// server that is behind, until a third of its life is left.
func TestCertificateOverTime(t *testing.T) {
	made := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	c, err := newCertificate(hookName, made, webhookLife)
	if err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	for after, want := range map[time.Duration]string{
		-25 * time.Hour: "not yet valid", -23 * time.Hour: "", 0: "", 59 * day: "", 60 * day: "it expires in 720h", 89 * day: "it expires in", 91 * day: "has expired",
	} {
		_, err := c.check(hookName, made.Add(after))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("after %s: %v, want %q", after, err, want)
		}
	}
	if _, err := c.check("another.metallb-system.svc", made); err == nil {
		t.Error("it proves another name")
	}
	if back := certificateOf(&corev1.Secret{Data: c.data()}); !bytes.Equal(back.chain, c.chain) || !bytes.Equal(back.key, c.key) || !bytes.Equal(back.roots, c.roots) {
		t.Error("a Secret does not hold it")
	}
}

// TestFormerRoots: what replicas serve with that have not heard of the new certificate stays
// trusted, and roots do not add up.
func TestFormerRoots(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	var last certificate
	for i := range 6 {
		c, err := newCertificate(hookName, now, webhookLife)
		if err != nil {
			t.Fatal(err)
		}
		former := last
		last = c.trusting(former, now)
		if _, err := last.check(hookName, now); err != nil {
			t.Fatalf("certificate %d: %v", i, err)
		}
		if i > 0 {
			pair, err := former.check(hookName, now)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := prove(pair, last.roots, hookName, now); err != nil {
				t.Errorf("certificate %d is not trusted any more: %v", i-1, err)
			}
		}
		if n := bytes.Count(last.roots, []byte("BEGIN CERTIFICATE")); n != min(i+1, 1+formerRoots) {
			t.Errorf("after %d certificates there are %d roots", i+1, n)
		}
		now = now.Add(time.Hour)
	}
	// What has expired, or is none, is not taken over.
	now = now.Add(2 * webhookLife)
	c, err := newCertificate(hookName, now, webhookLife)
	if err != nil {
		t.Fatal(err)
	}
	last.roots = append([]byte("nonsense\n"), append(last.roots, pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: []byte("junk")})...)...)
	if got := c.trusting(last, now); !bytes.Equal(got.roots, c.roots) {
		t.Errorf("roots:\n%s", got.roots)
	}
}

// FuzzCertificate: a Secret may hold anything.
func FuzzCertificate(f *testing.F) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	c, err := newCertificate(hookName, now, webhookLife)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c.chain, c.key, c.roots)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"), []byte{}, []byte{0})
	f.Fuzz(func(t *testing.T, chain, key, roots []byte) {
		have := certificate{chain: chain, key: key, roots: roots}
		_, _ = have.check(hookName, now)
		if _, err := c.trusting(have, now).check(hookName, now); err != nil {
			t.Errorf("a new certificate is not good with these roots: %v", err)
		}
	})
}
