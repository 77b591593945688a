package kube

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/barelb/barelb/internal/core/explain"
)

const (
	// healthPort is where a speaker serves its metrics to its own node.
	healthPort = 17472
	// portForward is the protocol of the subresource (kubernetes.io/docs: pods/portforward).
	portForward = "portforward.k8s.io"
	maxMetrics  = 64 << 20 // bytes
)

// KnownPath is where a speaker serves to its own node, beside its metrics, what it knows,
// as an explain.Known in JSON.
const KnownPath = "/known"

// said is what one speaker says of itself.
type said struct {
	metrics string
	known   *explain.Known // nil if it does not tell
}

// forwarded reads what a speaker says from its own loopback, to which the API server and
// the kubelet carry the connection: who may do that needs no token of the speaker's.
func (r *Reader) forwarded(ctx context.Context, pod *corev1.Pod) (said, error) {
	transport, upgrader, err := spdy.RoundTripperFor(r.rest)
	if err != nil {
		return said{}, fmt.Errorf("forward a port: %w", err)
	}
	at := r.core.RESTClient().Post().Namespace(pod.Namespace).Resource("pods").Name(pod.Name).SubResource("portforward").URL()
	type answer struct {
		said
		err error
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
		var a answer
		if a.metrics, a.err = getOver(conn, healthPort, "/metrics"); a.err == nil {
			if text, err := getOver(conn, healthPort, KnownPath); err == nil {
				a.known, _ = parseKnown([]byte(text)) // an older speaker has none
			}
		}
		done <- a
	}()
	select {
	case a := <-done:
		return a.said, a.err
	case <-ctx.Done():
		return said{}, ctx.Err()
	}
}

// parseKnown reads what a speaker serves at KnownPath.
func parseKnown(text []byte) (*explain.Known, error) {
	k := &explain.Known{}
	if err := json.Unmarshal(text, k); err != nil {
		return nil, fmt.Errorf("read what a speaker knows: %w", err)
	}
	return k, nil
}

// getOver asks for a page on a port of a Pod.
func getOver(conn httpstream.Connection, port int, path string) (string, error) {
	headers := http.Header{}
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, path) // one for each pair of streams
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
	req, err := http.NewRequest(http.MethodGet, "http://localhost"+path, nil) //nolint:noctx // the connection has one
	if err != nil {
		return "", err
	}
	req.Close = true
	if err := req.Write(data); err != nil {
		return "", fmt.Errorf("ask for %s: %w", path, err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(data), req)
	if err != nil {
		if why, _ := io.ReadAll(io.LimitReader(failed, 1<<10)); len(why) > 0 {
			return "", errors.New(firstLine(string(why)))
		}
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the speaker answers %s: it is of another version, or has --local-metrics=false", resp.Status)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxMetrics))
	return string(text), err
}
