package backend_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/barelb/barelb/lab/measure/backend"
)

// serve starts a server on a loopback address of its own and returns a function
// that tells it to stop and one that waits for its end.
func serve(t *testing.T, addr string, drain time.Duration) (func(), func() error) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	listening, done := make(chan struct{}), make(chan error, 1)
	opts := backend.Options{
		HTTP: addr + ":18080", UDP: "0.0.0.0:18080", TCP: addr + ":18081", Drain: drain,
		Identity: backend.Identity{Pod: "web-1", Node: "node2"},
	}
	go func() {
		done <- backend.Serve(ctx, opts, func() error { close(listening); return nil })
	}()
	select {
	case <-listening:
	case err := <-done:
		t.Fatalf("serve: %v", err)
	}
	t.Cleanup(stop)
	return stop, func() error { return <-done }
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestServerNamesItself(t *testing.T) {
	const addr = "127.0.71.1"
	stop, wait := serve(t, addr, 0)
	for path, want := range map[string]string{
		"/": "pod=web-1 node=node2\n", "/hostname": "pod=web-1 node=node2\n",
		"/clientip": "127.0.0.1\n", "/healthz": "ok\n", "/readyz": "ok\n",
	} {
		if status, body := get(t, "http://"+addr+":18080"+path); status != http.StatusOK || body != want {
			t.Errorf("GET %s: %d %q, want 200 %q", path, status, body, want)
		}
	}

	line, err := net.Dial("tcp", addr+":18081")
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	lines := bufio.NewReader(line)
	for i := range 3 {
		fmt.Fprintf(line, "%d\n", i)
		got, err := lines.ReadString('\n')
		if want := fmt.Sprintf("%d pod=web-1 node=node2\n", i); err != nil || got != want {
			t.Errorf("line %d: %q, %v; want %q", i, got, err, want)
		}
	}

	// A connected socket takes an answer from no other address than it asked.
	asker, err := net.Dial("udp", addr+":18080")
	if err != nil {
		t.Fatal(err)
	}
	defer asker.Close()
	fmt.Fprint(asker, "who")
	buf := make([]byte, 100)
	_ = asker.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, err := asker.Read(buf)
	if want := "who pod=web-1 node=node2"; err != nil || string(buf[:n]) != want {
		t.Errorf("datagram: %q, %v; want %q", buf[:n], err, want)
	}

	stop()
	if err := wait(); err != nil {
		t.Errorf("serve: %v", err)
	}
	if got, err := lines.ReadString('\n'); err == nil {
		t.Errorf("after its end the server says %q", got)
	}
}

func TestServerDrains(t *testing.T) {
	const addr = "127.0.71.2"
	stop, wait := serve(t, addr, 300*time.Millisecond)
	began := time.Now()
	stop()
	for status := http.StatusOK; status != http.StatusServiceUnavailable; {
		status, _ = get(t, "http://"+addr+":18080/readyz")
	}
	if status, _ := get(t, "http://"+addr+":18080/hostname"); status != http.StatusOK {
		t.Errorf("GET /hostname while draining: %d, want 200", status)
	}
	if err := wait(); err != nil {
		t.Errorf("serve: %v", err)
	}
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("ended after %v, before its drain time", took)
	}
}

func TestPortInUseEndsTheServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.71.3:18081")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = backend.Serve(t.Context(), backend.Options{HTTP: "127.0.71.3:18080", TCP: "127.0.71.3:18081"}, nil)
	if err == nil {
		t.Fatal("no error")
	}
	// What it had opened is closed again.
	again, err := net.Listen("tcp", "127.0.71.3:18080")
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
}

func TestParseIdentity(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		want backend.Identity
		ok   bool
	}{
		"pod=web-1 node=node2\n":            {backend.Identity{Pod: "web-1", Node: "node2"}, true},
		"\x00\x01x pod=web-1 node=node2":    {backend.Identity{Pod: "web-1", Node: "node2"}, true},
		"17 pod=web-1 node=":                {backend.Identity{Pod: "web-1"}, true},
		"pod=web-1":                         {},
		"<html><title>nginx</title></html>": {},
	}
	for answer, test := range tests {
		got, ok := backend.ParseIdentity(answer)
		if ok != test.ok || ok && got != test.want {
			t.Errorf("%q: %+v, %v; want %+v, %v", answer, got, ok, test.want, test.ok)
		}
	}
}
