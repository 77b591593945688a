package kube

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

const (
	// healthPort is where a speaker serves its metrics to its own node.
	healthPort = 17472
	// portForward is the protocol of the subresource (kubernetes.io/docs: pods/portforward).
	portForward = "portforward.k8s.io"
	maxMetrics  = 64 << 20 // bytes
)

// forwarded reads a speaker's metrics from its own loopback, to which the API server and
// the kubelet carry the connection: who may do that needs no token of the speaker's.
func (r *Reader) forwarded(ctx context.Context, pod *corev1.Pod) (string, error) {
	transport, upgrader, err := spdy.RoundTripperFor(r.rest)
	if err != nil {
		return "", fmt.Errorf("forward a port: %w", err)
	}
	at := r.core.RESTClient().Post().Namespace(pod.Namespace).Resource("pods").Name(pod.Name).SubResource("portforward").URL()
	type answer struct {
		text string
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		conn, _, err := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, at).Dial(portForward)
		if err != nil {
			done <- answer{err: err}
			return
		}
		defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
		defer func() { _ = conn.Close() }()
		text, err := getOver(conn, healthPort)
		done <- answer{text, err}
	}()
	select {
	case a := <-done:
		return a.text, a.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// getOver asks for /metrics on a port of a Pod.
func getOver(conn httpstream.Connection, port int) (string, error) {
	headers := http.Header{}
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	failed, err := conn.CreateStream(headers)
	if err != nil {
		return "", fmt.Errorf("forward a port: %w", err)
	}
	_ = failed.Close() // we write nothing there
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := conn.CreateStream(headers)
	if err != nil {
		return "", fmt.Errorf("forward a port: %w", err)
	}
	req, err := http.NewRequest(http.MethodGet, "http://localhost/metrics", nil) //nolint:noctx // the connection has one
	if err != nil {
		return "", err
	}
	req.Close = true
	if err := req.Write(data); err != nil {
		return "", fmt.Errorf("ask for metrics: %w", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(data), req)
	if err != nil {
		if why, _ := io.ReadAll(io.LimitReader(failed, 1<<10)); len(why) > 0 {
			return "", errors.New(firstLine(string(why)))
		}
		return "", fmt.Errorf("read metrics: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the speaker answers %s: it is of another version, or has --local-metrics=false", resp.Status)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxMetrics))
	return string(text), err
}
