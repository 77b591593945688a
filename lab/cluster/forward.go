package cluster

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/barelb/barelb/lab/box"
)

// forwarder makes the API server reachable from the machine: it listens on a loopback port and dials inside the control box.
type forwarder struct {
	listener net.Listener
	to       *box.Box

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	wg    sync.WaitGroup
}

func newForwarder(ctx context.Context, to *box.Box) (*forwarder, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen on loopback: %w", err)
	}
	f := &forwarder{listener: l, to: to, conns: map[net.Conn]struct{}{}}
	f.wg.Go(f.accept)
	return f, nil
}

func (f *forwarder) addr() string { return f.listener.Addr().String() }

// dial connects to an address literal from inside the box. It is made for rest.Config.Dial.
func (f *forwarder) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return dialIn(ctx, f.to, network, addr)
}

// dialIn connects to an address literal from inside a box.
func dialIn(ctx context.Context, b *box.Box, network, addr string) (net.Conn, error) {
	var conn net.Conn
	err := b.InNetns(func() error {
		var err error
		conn, err = (&net.Dialer{}).DialContext(ctx, network, addr) // one literal: the socket is made on this thread
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial %s in %s: %w", addr, b.Name(), err)
	}
	return conn, nil
}

func (f *forwarder) accept() {
	for {
		in, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.wg.Go(func() { f.relay(in) })
	}
}

func (f *forwarder) relay(in net.Conn) {
	defer f.track(in)()
	out, err := f.dial(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", apiPort))
	if err != nil {
		return
	}
	defer f.track(out)()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(out, in)
		if tcp, ok := out.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
	}()
	_, _ = io.Copy(in, out)
	_ = in.Close()
	<-done
}

// track remembers a connection until the returned function closes it.
func (f *forwarder) track(c net.Conn) func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns[c] = struct{}{}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.conns, c)
		_ = c.Close()
	}
}

func (f *forwarder) close() {
	_ = f.listener.Close()
	f.mu.Lock()
	for c := range f.conns {
		_ = c.Close()
	}
	f.mu.Unlock()
	f.wg.Wait()
}
