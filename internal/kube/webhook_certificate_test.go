package kube_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/internal/kube"
)

// TestWebhookHeals: whatever becomes of Secret and configuration, it is made good.
func TestWebhookHeals(t *testing.T) {
	h := newHooked(t)
	port := h.serve()
	h.route(port)
	h.eventually(h.asked)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: hookSecret}}
	agree := func() string {
		fresh := &corev1.Secret{ObjectMeta: secret.ObjectMeta}
		if err := h.client.Get(t.Context(), client.ObjectKeyFromObject(secret), fresh); err != nil {
			return err.Error()
		}
		switch {
		case !bytes.Equal(fresh.Data["ca.crt"], h.bundle()):
			return "the API server trusts other roots than are in the Secret"
		case !bytes.Equal(fresh.Data[corev1.TLSCertKey], presented(t, port)):
			return "the certificate is another than in the Secret"
		}
		return h.asked()
	}
	bundles := func(ca []byte) {
		h.refresh(h.config)
		edit(h.lab, h.config, func(o *admissionregistrationv1.ValidatingWebhookConfiguration) {
			for i := range o.Webhooks {
				o.Webhooks[i].ClientConfig.CABundle = ca
			}
		})
	}
	h.eventually(agree)
	h.refresh(secret)
	first := secret.DeepCopy()

	for _, harm := range []struct {
		name string
		do   func()
		// renews says that another certificate is made.
		renews bool
	}{
		{"the roots are cleared", func() { bundles(nil) }, false},
		{"the roots are others", func() { bundles(otherRoot(t)) }, false},
		{"the Secret is deleted", func() { h.delete(secret) }, true},
		{"the Secret is emptied", func() {
			edit(h.lab, secret, func(s *corev1.Secret) {
				s.Data = map[string][]byte{corev1.TLSCertKey: {}, corev1.TLSPrivateKeyKey: {}}
			})
		}, true},
		{"the key is another", func() {
			edit(h.lab, secret, func(s *corev1.Secret) { s.Data[corev1.TLSPrivateKeyKey] = first.Data[corev1.TLSPrivateKeyKey] })
		}, true},
		{"the roots do not fit", func() { edit(h.lab, secret, func(s *corev1.Secret) { s.Data["ca.crt"] = otherRoot(t) }) }, true},
	} {
		h.refresh(secret)
		before := secret.Data[corev1.TLSCertKey]
		harm.do()
		h.eventually(func() string {
			if why := agree(); why != "" {
				return harm.name + ": " + why
			}
			secret = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: hookSecret}}
			h.refresh(secret)
			if same := bytes.Equal(before, secret.Data[corev1.TLSCertKey]); same == harm.renews {
				return harm.name + ": not as expected: the certificate is the same: " + strconv.FormatBool(same)
			}
			return ""
		})
		if o := secret.OwnerReferences; harm.name == "the Secret is deleted" && (len(o) != 1 || o[0].Kind != "ValidatingWebhookConfiguration" || o[0].UID == "") {
			t.Errorf("a Secret that a controller made does not go with the configuration: %+v", o)
		}
	}
}

// otherRoot returns a root that nobody of ours has.
func otherRoot(t *testing.T) []byte {
	t.Helper()
	if len(server.env.Config.CAData) == 0 {
		t.Fatal("the API server has no root of its own")
	}
	return server.env.Config.CAData
}

// TestWebhookRotates: certificates are renewed before they expire, and not one write passes
// unjudged meanwhile, at any of two replicas.
func TestWebhookRotates(t *testing.T) {
	h := newHooked(t)
	short := func(o *kube.WebhookOptions) { o.Life, o.Interval = 12*time.Second, 500*time.Millisecond }
	ports := []int{h.serve(short), h.serve(short)}
	h.route(ports...) // pools at the first, BGPPeers at the second
	both := func() string {
		if why := h.asked(); why != "" {
			return why
		}
		err := h.client.Create(t.Context(), configObject(t, "v1beta2", "BGPPeer", system, "nonsense", "{myASN: 1, peerASN: 2, peerAddress: x}"), client.DryRunAll)
		if err == nil || !strings.Contains(err.Error(), "invalid BGPPeer address") {
			return fmt.Sprintf("a BGPPeer is not refused: %v", err)
		}
		return ""
	}
	h.eventually(both)
	seen := [2][]string{}
	end := time.Now().Add(deadline)
	asked := 0
	for len(seen[0]) < 3 || len(seen[1]) < 3 {
		if why := both(); why != "" {
			t.Fatalf("after %d questions: %s", asked, why)
		}
		asked++
		for i, port := range ports {
			pair := presented(t, port)
			block, _ := pem.Decode(pair)
			leaf, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			if time.Now().After(leaf.NotAfter) {
				t.Fatal("an expired certificate is in use")
			}
			if !slices.Contains(seen[i], string(pair)) {
				seen[i] = append(seen[i], string(pair))
			}
		}
		if time.Now().After(end) {
			t.Fatalf("certificates seen: %d and %d", len(seen[0]), len(seen[1]))
		}
	}
	if !slices.Equal(seen[0][1:3], seen[1][1:3]) {
		t.Error("the replicas have different certificates")
	}
	t.Logf("%d questions at each replica", asked)
}

// TestWebhookReplicasRace: of replicas that start at once, all end with one certificate.
func TestWebhookReplicasRace(t *testing.T) {
	h := newHooked(t)
	ports := make([]int, 5)
	for i := range ports {
		ports[i] = freePort(t)
	}
	var all sync.WaitGroup
	for _, port := range ports {
		w := h.connect(kube.Options{}).Webhook(kube.WebhookOptions{Port: port, Service: hookService, Secret: hookSecret, Interval: 50 * time.Millisecond})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		all.Go(func() {
			if err := w.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		t.Cleanup(all.Wait)
		t.Cleanup(stop)
	}
	h.eventually(func() string {
		var s corev1.Secret
		if err := h.client.Get(t.Context(), client.ObjectKey{Namespace: system, Name: hookSecret}, &s); err != nil {
			return err.Error()
		}
		for _, port := range ports {
			if !bytes.Equal(presented(t, port), s.Data[corev1.TLSCertKey]) {
				return fmt.Sprintf("port %d has another certificate", port)
			}
		}
		if !bytes.Equal(h.bundle(), s.Data["ca.crt"]) {
			return "the API server trusts other roots"
		}
		return ""
	})
	for _, port := range ports {
		h.route(port)
		h.eventually(h.asked)
	}
}

// TestWebhookWithFiles: with certificates of somebody else's, neither Secret nor roots are
// touched, and files that are replaced are used.
func TestWebhookWithFiles(t *testing.T) {
	h := newHooked(t)
	// Any certificate of the right name: that which another webhook makes.
	h.serve()
	var made corev1.Secret
	copied := func(dir string) func() string {
		return func() string {
			if err := h.client.Get(t.Context(), client.ObjectKey{Namespace: system, Name: hookSecret}, &made); err != nil {
				return err.Error()
			}
			if len(made.Data) == 0 {
				return "the Secret is empty, as webhook.yaml has it"
			}
			for _, name := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
				if err := os.WriteFile(filepath.Join(dir, name), made.Data[name], 0o600); err != nil {
					t.Fatal(err)
				}
			}
			return ""
		}
	}
	dir := t.TempDir()
	h.eventually(copied(dir))
	port := h.serve(func(o *kube.WebhookOptions) { o.CertDir, o.Secret = dir, "hook-not-there" })
	h.route(port)
	h.eventually(h.asked)
	h.eventually(func() string {
		if !bytes.Equal(presented(t, port), made.Data[corev1.TLSCertKey]) {
			return "another certificate is presented"
		}
		return ""
	})
	if err := os.WriteFile(filepath.Join(dir, corev1.TLSCertKey), []byte("half written"), 0o600); err != nil {
		t.Fatal(err)
	}
	first := made.Data[corev1.TLSCertKey]
	h.delete(&made)
	h.eventually(func() string {
		if why := copied(dir)(); why != "" || bytes.Equal(first, made.Data[corev1.TLSCertKey]) {
			return "no new certificate is there: " + why
		}
		return ""
	})
	h.eventually(func() string {
		if !bytes.Equal(presented(t, port), made.Data[corev1.TLSCertKey]) {
			return "the old certificate is presented"
		}
		return h.asked()
	})
	var none corev1.Secret
	if err := h.client.Get(t.Context(), client.ObjectKey{Namespace: system, Name: "hook-not-there"}, &none); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("a Secret was made: %v", err)
	}
}

// bundle returns by which roots the API server knows the webhook, if all entries agree.
func (h *hooked) bundle() []byte {
	h.t.Helper()
	h.refresh(h.config)
	first := h.config.Webhooks[0].ClientConfig.CABundle
	for _, w := range h.config.Webhooks {
		if !bytes.Equal(w.ClientConfig.CABundle, first) {
			return nil
		}
	}
	return first
}

// presented returns the certificate at a port in PEM.
func presented(t *testing.T, port int) []byte {
	t.Helper()
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	conn, err := d.DialContext(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil
	}
	defer func() { _ = conn.Close() }()
	leaf := conn.(*tls.Conn).ConnectionState().PeerCertificates[0] //nolint:forcetypeassert // it is TLS
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})
}
