package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// WebhookConfiguration is the ValidatingWebhookConfiguration that names us, by MetalLB's name.
	WebhookConfiguration = "metallb-webhook-configuration"

	webhookLife     = 90 * 24 * time.Hour // of a certificate; two thirds of it are used
	webhookInterval = 10 * time.Second    // between two looks at Secret and configuration
	webhookAgain    = time.Second         // after one that failed
	webhookTimeout  = 5 * time.Second
)

// WebhookOptions say how the API server finds and trusts the webhook.
type WebhookOptions struct {
	Port    int
	Service string // the Service in our namespace by which the API server calls us
	// Secret is the name of the Secret in our namespace by which all replicas share one
	// certificate; it is made and renewed by them.
	Secret string
	// CertDir, if not "", is a directory with tls.crt and tls.key, which somebody else
	// renews, and tells the API server of.
	CertDir string
	TLS     func(*tls.Config)

	Life     time.Duration // of a certificate that is made here; 0: 90 days
	Interval time.Duration // between two looks at what is in force; 0: 10 s
}

// Webhook serves the API server's questions whether configuration objects may be written.
// Any number of replicas may serve.
type Webhook struct {
	c       *Cluster
	opts    WebhookOptions
	name    string // by which the API server knows us
	now     func() time.Time
	current atomic.Pointer[tls.Certificate]
	ready   chan struct{}
	once    sync.Once

	// Owned by keep:
	told string      // the trouble that was logged last
	last certificate // of all replicas, as it was last read or made
}

// Webhook returns the server, which serves once it is run.
func (c *Cluster) Webhook(opts WebhookOptions) *Webhook {
	if opts.Life == 0 {
		opts.Life = webhookLife
	}
	if opts.Interval == 0 {
		opts.Interval = webhookInterval
	}
	return &Webhook{
		c: c, opts: opts, name: opts.Service + "." + c.opts.Namespace + ".svc", now: time.Now, ready: make(chan struct{}),
	}
}

// Ready is closed once there is a certificate to serve with.
func (w *Webhook) Ready() <-chan struct{} { return w.ready }

// Run serves until ctx ends.
func (w *Webhook) Run(ctx context.Context) error {
	const readTimeout, idleTimeout = 10 * time.Second, 2 * time.Minute
	review := newAdmission(w.c.opts.Namespace, w.c.client, w.c.opts.Log)
	mux := http.NewServeMux()
	for _, path := range reviewPaths() {
		mux.Handle("POST "+path, review)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS13}
	if w.opts.TLS != nil {
		w.opts.TLS(cfg)
	}
	cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if pair := w.current.Load(); pair != nil {
			return pair, nil
		}
		return nil, errNoCertificate
	}
	srv := &http.Server{
		Handler: mux, TLSConfig: cfg, ReadHeaderTimeout: readTimeout, ReadTimeout: readTimeout, IdleTimeout: idleTimeout,
		ErrorLog: slog.NewLogLogger(w.c.opts.Log.Handler(), slog.LevelDebug),
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ":"+strconv.Itoa(w.opts.Port))
	if err != nil {
		return fmt.Errorf("listen for the API server: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var others sync.WaitGroup
	defer others.Wait()
	defer cancel()
	others.Go(func() { w.keep(ctx) })
	others.Go(func() { // what was asked is answered before the end
		<-ctx.Done()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), webhookTimeout)
		defer cancel()
		_ = srv.Shutdown(last)
	})
	if err := srv.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the API server: %w", err)
	}
	return nil
}

// keep keeps the certificate good, and the API server trusting it, until ctx ends.
func (w *Webhook) keep(ctx context.Context) {
	for {
		pause, trouble := w.opts.Interval, ""
		if err := w.look(ctx); err != nil {
			pause, trouble = min(pause, webhookAgain), err.Error()
		}
		if trouble != w.told && ctx.Err() == nil {
			w.told = trouble
			if trouble != "" {
				w.c.opts.Log.Warn("the webhook is not in order: configuration is written unchecked meanwhile", "err", trouble)
			} else {
				w.c.opts.Log.Info("the webhook is in order again")
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// look makes right what is not.
func (w *Webhook) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, webhookTimeout)
	defer cancel()
	if dir := w.opts.CertDir; dir != "" {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, corev1.TLSCertKey), filepath.Join(dir, corev1.TLSPrivateKeyKey))
		if err != nil {
			return fmt.Errorf("read the certificate: %w", err) // the last one may be good still
		}
		w.serve(&pair)
		return nil
	}
	// Another replica may have been faster.
	lost := func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }
	return retry.OnError(retry.DefaultRetry, lost, func() error { return w.share(ctx) })
}

// share takes the certificate out of the Secret, or puts one into it, and has the API
// server trust it. It serves with it the second time that it finds it: until then API
// servers have heard of it, and trust the former one as well.
//
// The configuration is read before the Secret, and written only if it is unchanged since.
// Else who has read the Secret before another one renewed it could take back what that one
// has written.
func (w *Webhook) share(ctx context.Context) error {
	var cfg admissionregistrationv1.ValidatingWebhookConfiguration
	err := w.c.client.Get(ctx, client.ObjectKey{Name: WebhookConfiguration}, &cfg)
	switch {
	case apierrors.IsNotFound(err):
		err = fmt.Errorf("there is no ValidatingWebhookConfiguration %q: nobody asks", WebhookConfiguration)
	case err != nil:
		err = fmt.Errorf("get ValidatingWebhookConfiguration %s: %w", WebhookConfiguration, err)
	}
	cert, pair, noCert := w.fromSecret(ctx, cfg.UID)
	if noCert != nil {
		return errors.Join(err, noCert)
	}
	if err == nil {
		err = w.trust(ctx, &cfg, cert.roots)
	}
	known := bytes.Equal(cert.chain, w.last.chain)
	w.last = cert
	if have := w.current.Load(); known && err == nil || have == nil || !w.proves(have, cert.roots) {
		w.serve(pair)
	}
	return err
}

// proves reports whether pair is good for those who trust roots.
func (w *Webhook) proves(pair *tls.Certificate, roots []byte) bool {
	_, err := prove(pair, roots, w.name, w.now())
	return err == nil
}

// fromSecret returns the certificate of all replicas, which is good now. If the Secret is
// missing it is made for the configuration of that UID, and goes with it. With none it is
// not made: whoever takes the webhook away deletes it, and must not find it again, made by a
// controller that ends a moment later.
func (w *Webhook) fromSecret(ctx context.Context, asked types.UID) (certificate, *tls.Certificate, error) {
	var s corev1.Secret
	key := client.ObjectKey{Namespace: w.c.opts.Namespace, Name: w.opts.Secret}
	err := w.c.client.Get(ctx, key, &s)
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return certificate{}, nil, fmt.Errorf("get secret %s: %w", key.Name, err)
	}
	if missing && asked == "" {
		return certificate{}, nil, fmt.Errorf("secret %s is not there, and is made once a ValidatingWebhookConfiguration is read", key.Name)
	}
	now, have := w.now(), certificateOf(&s)
	pair, why := have.check(w.name, now)
	if why == nil {
		return have, pair, nil
	}
	fresh, err := newCertificate(w.name, now, w.opts.Life)
	if err != nil {
		return certificate{}, nil, err
	}
	if len(have.roots) == 0 {
		have = w.last // somebody has deleted it
	}
	fresh = fresh.trusting(have, now)
	if pair, err = fresh.check(w.name, now); err != nil {
		return certificate{}, nil, fmt.Errorf("check the certificate that was just made: %w", err)
	}
	if missing {
		s = corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, OwnerReferences: []metav1.OwnerReference{{
			APIVersion: admissionregistrationv1.SchemeGroupVersion.String(), Kind: "ValidatingWebhookConfiguration", Name: WebhookConfiguration, UID: asked,
		}}}, Type: corev1.SecretTypeTLS, Data: fresh.data()}
		err = w.c.client.Create(ctx, &s)
	} else {
		s.Data = fresh.data()
		err = w.c.client.Update(ctx, &s)
	}
	if err != nil {
		return certificate{}, nil, fmt.Errorf("write secret %s: %w", key.Name, err)
	}
	w.c.opts.Log.Info("made a certificate for the webhook", "secret", key.Name, "until", pair.Leaf.NotAfter, "reason", why.Error())
	return fresh, pair, nil
}

// trust has the API server trust roots when it calls us.
func (w *Webhook) trust(ctx context.Context, cfg *admissionregistrationv1.ValidatingWebhookConfiguration, roots []byte) error {
	before := cfg.DeepCopy()
	found, changed := false, false
	for i := range cfg.Webhooks {
		to := &cfg.Webhooks[i].ClientConfig
		if to.Service == nil || to.Service.Name != w.opts.Service || to.Service.Namespace != w.c.opts.Namespace {
			continue
		}
		found = true
		if !bytes.Equal(to.CABundle, roots) {
			to.CABundle, changed = roots, true
		}
	}
	if !found {
		return fmt.Errorf("ValidatingWebhookConfiguration %q does not name Service %s of namespace %s: nobody asks", cfg.Name, w.opts.Service, w.c.opts.Namespace)
	}
	if !changed {
		return nil
	}
	patch := client.StrategicMergeFrom(before, client.MergeFromWithOptimisticLock{})
	if err := w.c.client.Patch(ctx, cfg, patch); err != nil {
		return fmt.Errorf("have the API server trust the webhook: %w", err)
	}
	return nil
}

func (w *Webhook) serve(pair *tls.Certificate) {
	w.current.Store(pair)
	w.once.Do(func() { close(w.ready) })
}
