package liveness

import (
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// magic begins each connection that is ours. memberlist's begin with the type of a
	// message, below 16 and far below for decades, or with 244.
	magic = 0xBA
	// firstByte bounds the wait for the byte that tells whose a connection is.
	firstByte = 2 * time.Second
	// unsorted bounds the connections that have not said yet whose they are. More are
	// closed at once.
	unsorted = 256
)

// transport is memberlist's own, on the same sockets as ours: connections that begin
// with our magic byte are handed to ours, all others to memberlist.
type transport struct {
	*memberlist.NetTransport
	streams chan net.Conn
	ours    func(net.Conn) // takes the connection, whose magic byte is read
	done    chan struct{}
	sorting sync.WaitGroup
	dropped func()
}

func listen(addr string, port int, log *slog.Logger, ours func(net.Conn), dropped func()) (*transport, error) {
	nt, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
		BindAddrs: []string{addr}, BindPort: port, Logger: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	})
	if err != nil {
		return nil, err
	}
	t := &transport{NetTransport: nt, streams: make(chan net.Conn), ours: ours, done: make(chan struct{}), dropped: dropped}
	t.sorting.Go(t.sort)
	return t, nil
}

// StreamCh returns memberlist's share of the connections.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// Shutdown closes the sockets. Connections that are with us already stay.
func (t *transport) Shutdown() error {
	err := t.NetTransport.Shutdown() // while connections that were accepted are still taken
	close(t.done)
	t.sorting.Wait()
	return err
}

// sort finds out whose the connections are.
func (t *transport) sort() {
	room := make(chan struct{}, unsorted)
	for {
		select {
		case <-t.done:
			return
		case conn := <-t.NetTransport.StreamCh():
			select {
			case room <- struct{}{}:
			default:
				t.dropped()
				_ = conn.Close()
				continue
			}
			t.sorting.Go(func() {
				defer func() { <-room }()
				t.sortOne(conn)
			})
		}
	}
}

func (t *transport) sortOne(conn net.Conn) {
	stop := make(chan struct{})
	defer close(stop)
	go func() { // one that says nothing must not hold up the end
		select {
		case <-t.done:
			_ = conn.SetReadDeadline(time.Now())
		case <-stop:
		}
	}()
	var b [1]byte
	_ = conn.SetReadDeadline(time.Now().Add(firstByte))
	if n, err := conn.Read(b[:]); n == 0 || err != nil {
		_ = conn.Close()
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	if b[0] == magic {
		t.ours(conn)
		return
	}
	select {
	case t.streams <- &peeked{Conn: conn, first: b[:]}:
	case <-t.done:
		_ = conn.Close()
	}
}

// peeked is a connection of which the first byte has been read. It has one reader.
type peeked struct {
	net.Conn
	first []byte
}

func (p *peeked) Read(b []byte) (int, error) {
	if len(p.first) == 0 {
		return p.Conn.Read(b)
	}
	n := copy(b, p.first)
	p.first = p.first[n:]
	return n, nil
}
