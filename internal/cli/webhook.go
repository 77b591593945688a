package cli

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/spf13/pflag"

	"github.com/barelb/barelb/internal/kube"
	"github.com/barelb/barelb/internal/task"
)

// webhookFlags say whether and how the controller judges configuration before it is written.
type webhookFlags struct {
	mode            string
	port            int
	service, secret string
	given           bool // certificates are made by somebody else
	certDir         string
}

// The values of --webhook-mode.
const (
	webhookEnabled  = "enabled"
	webhookDisabled = "disabled"
	webhookOnly     = "onlywebhook"
)

func (w *webhookFlags) add(f *pflag.FlagSet) {
	f.StringVar(&w.mode, "webhook-mode", env("BARELB_WEBHOOK_MODE", webhookDisabled), "whether to judge configuration before it is written: enabled, disabled, or onlywebhook, which does nothing else (BARELB_WEBHOOK_MODE); see docs/webhook.md")
	f.IntVar(&w.port, "webhook-port", 9443, "port that the API server asks at")
	f.StringVar(&w.service, "cert-service-name", "metallb-webhook-service", "Service in our namespace by which the API server reaches that port")
	f.StringVar(&w.secret, "webhook-secret", "metallb-webhook-cert", "Secret in our namespace with the certificate of all controllers, which make and renew it")
	f.BoolVar(&w.given, "disable-cert-rotation", false, "use the certificate in --cert-dir, which somebody else renews, and leave to them by which root the API server knows us")
	f.StringVar(&w.certDir, "cert-dir", "/tmp/k8s-webhook-server/serving-certs", "directory with tls.crt and tls.key, for --disable-cert-rotation")
}

// check refuses values that make no sense.
func (w *webhookFlags) check() error {
	switch w.mode {
	case webhookEnabled, webhookDisabled, webhookOnly:
		return nil
	}
	return fmt.Errorf("--webhook-mode: %q is neither enabled nor disabled nor onlywebhook", w.mode)
}

// startWebhook starts what judges configuration. That it cannot be served is no reason to
// end: configuration is written unchecked then.
func startWebhook(ctx context.Context, tasks *task.Group, cluster *kube.Cluster, f controllerFlags, log *slog.Logger) (*kube.Webhook, error) {
	tlsConfig, err := f.tlsConfig()
	if err != nil {
		return nil, err
	}
	opts := kube.WebhookOptions{Port: f.hook.port, Service: f.hook.service, Secret: f.hook.secret, TLS: tlsConfig}
	if f.hook.given {
		opts.CertDir = f.hook.certDir
	}
	w := cluster.Webhook(opts)
	tasks.Go(ctx, "webhook", func(ctx context.Context) error {
		keepTrying(ctx, log, "serve the webhook", w.Run)
		return nil
	})
	return w, nil
}

// runWebhook judges configuration and does nothing else.
func runWebhook(ctx context.Context, cluster *kube.Cluster, f controllerFlags, log *slog.Logger) error {
	log.Info("starting the webhook alone", "version", version(), "namespace", f.namespace)
	tasks := task.New(log)
	w, err := startWebhook(ctx, tasks, cluster, f, log)
	if err != nil {
		return err
	}
	if err := serve(ctx, tasks, cluster, f.common, "", w.Ready(), nil); err != nil {
		return err
	}
	return tasks.Wait(ctx)
}
