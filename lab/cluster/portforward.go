package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/barelb/barelb/lab/box"
)

// kubeletPort is where an API server expects a node's kubelet.
const kubeletPort = 10250

// portForwards does, in a cluster without kubelets, the one thing of them that is asked for: it carries connections from
// the API server to ports of a node's own loopback, where the Pods of the host's network are (kubectl port-forward).
type portForwards struct {
	servers []*http.Server
	wg      sync.WaitGroup
}

// startPortForwards serves all nodes.
func (c *Cluster) startPortForwards(ctx context.Context) error {
	pem, err := os.ReadFile(c.pki.path("ca.crt"))
	if err != nil {
		return fmt.Errorf("forward ports: %w", err)
	}
	ca := x509.NewCertPool()
	ca.AppendCertsFromPEM(pem)
	for _, name := range c.Nodes() {
		cert, err := tls.LoadX509KeyPair(c.pki.path("kubelet-"+name+".crt"), c.pki.path("kubelet-"+name+".key"))
		if err != nil {
			return fmt.Errorf("forward ports: %w", err)
		}
		b := c.Box(name)
		var l net.Listener
		err = b.InNetns(func() error {
			var err error
			l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf(":%d", kubeletPort))
			return err
		})
		if err != nil {
			return fmt.Errorf("forward ports of %s: %w", name, err)
		}
		srv := &http.Server{Handler: forwardHandler(b), ReadHeaderTimeout: time.Minute}
		c.ports.servers = append(c.ports.servers, srv)
		secure := tls.NewListener(l, &tls.Config{
			Certificates: []tls.Certificate{cert}, ClientCAs: ca, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
		})
		c.ports.wg.Go(func() { _ = srv.Serve(secure) })
	}
	return nil
}

func (p *portForwards) close() error {
	var errs []error
	for _, s := range p.servers {
		errs = append(errs, s.Close())
	}
	p.wg.Wait()
	return errors.Join(errs...)
}

// forwardHandler answers POST /portForward/NAMESPACE/POD.
func forwardHandler(b *box.Box) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /portForward/{namespace}/{pod}", func(w http.ResponseWriter, req *http.Request) {
		if _, err := httpstream.Handshake(req, w, []string{"portforward.k8s.io"}); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		streams := make(chan httpstream.Stream, 16)
		conn := spdy.NewResponseUpgrader().UpgradeResponse(w, req, func(s httpstream.Stream, replied <-chan struct{}) error {
			go func() { <-replied; streams <- s }()
			return nil
		})
		if conn == nil {
			return
		}
		defer func() { _ = conn.Close() }()
		failures := map[string]httpstream.Stream{}
		data := map[string]httpstream.Stream{}
		for {
			select {
			case <-conn.CloseChan():
				return
			case s := <-streams:
				id := s.Headers().Get(corev1.PortForwardRequestIDHeader)
				if s.Headers().Get(corev1.StreamType) == corev1.StreamTypeError {
					failures[id] = s
				} else {
					data[id] = s
				}
				if failures[id] != nil && data[id] != nil {
					go forwardOne(b, data[id], failures[id])
				}
			}
		}
	})
	return mux
}

// forwardOne joins a stream with a connection to the port that it names.
func forwardOne(b *box.Box, data, failed httpstream.Stream) {
	defer func() { _, _ = data.Close(), failed.Close() }()
	conn, err := dialIn(context.Background(), b, "tcp", net.JoinHostPort("127.0.0.1", data.Headers().Get(corev1.PortHeader)))
	if err != nil {
		_, _ = fmt.Fprint(failed, err)
		return
	}
	defer func() { _ = conn.Close() }()
	go func() { _, _ = io.Copy(conn, data) }()
	_, _ = io.Copy(data, conn)
}
