package liveness

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"reflect"
	"testing"
	"time"

	core "github.com/barelb/barelb/internal/core/liveness"
)

// pair returns both ends of a session, or what went wrong on either side.
func pair(t testing.TB, a, b string) (c, s *session, cerr, serr error) {
	t.Helper()
	left, right := net.Pipe()
	t.Cleanup(func() { _, _ = left.Close(), right.Close() })
	done := make(chan struct{})
	go func() {
		defer close(done)
		var first [1]byte
		if _, serr = io.ReadFull(right, first[:]); serr == nil {
			s, serr = greet(right, []byte(b), server)
		}
	}()
	c, cerr = greet(left, []byte(a), client)
	<-done
	return c, s, cerr, serr
}

// pass sends a frame from one end to the other.
func pass(t testing.TB, from, to *session, payload []byte) ([]byte, error) {
	t.Helper()
	sent := make(chan error, 1)
	go func() { sent <- from.write(payload) }()
	got, err := to.read(time.Second)
	if serr := <-sent; serr != nil {
		t.Fatal(serr)
	}
	return got, err
}

func TestSession(t *testing.T) {
	for name, secret := range map[string]string{"sealed": "a secret", "in clear text": ""} {
		t.Run(name, func(t *testing.T) {
			c, s, cerr, serr := pair(t, secret, secret)
			if cerr != nil || serr != nil {
				t.Fatal(cerr, serr)
			}
			for _, payload := range [][]byte{nil, []byte("hello"), bytes.Repeat([]byte("x"), maxFrame)} {
				for _, way := range [][2]*session{{c, s}, {s, c}} {
					if got, err := pass(t, way[0], way[1], payload); err != nil || !bytes.Equal(got, payload) {
						t.Errorf("%d bytes arrive as %d, %v", len(payload), len(got), err)
					}
				}
			}
			if err := c.write(make([]byte, maxFrame+1)); !errors.Is(err, errFrame) {
				t.Errorf("a longer frame: %v", err)
			}
		})
	}
}

func TestSessionsOfDifferentSecrets(t *testing.T) {
	c, s, cerr, serr := pair(t, "a secret", "another secret")
	if cerr != nil || serr != nil {
		t.Fatal(cerr, serr)
	}
	for _, way := range [][2]*session{{c, s}, {s, c}} {
		if got, err := pass(t, way[0], way[1], []byte("hello")); !errors.Is(err, ErrSecret) {
			t.Errorf("got %q, %v", got, err)
		}
	}
	for _, secrets := range [][2]string{{"a secret", ""}, {"", "a secret"}} {
		if _, _, cerr, serr := pair(t, secrets[0], secrets[1]); !errors.Is(cerr, ErrSecret) || !errors.Is(serr, ErrSecret) {
			t.Errorf("%q and %q: %v, %v", secrets[0], secrets[1], cerr, serr)
		}
	}
}

// recorded keeps what is written.
type recorded struct {
	net.Conn
	wrote bytes.Buffer
}

func (r *recorded) Write(b []byte) (int, error) {
	r.wrote.Write(b)
	return r.Conn.Write(b)
}

func TestNothingCanBePlayedBack(t *testing.T) {
	c, s, _, _ := pair(t, "a secret", "a secret")
	rec := &recorded{Conn: c.conn}
	c.conn = rec
	if _, err := pass(t, c, s, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	frame := bytes.Clone(rec.wrote.Bytes())
	again := func(to *session) error {
		go func() { _, _ = rec.Conn.Write(frame) }()
		_, err := to.read(time.Second)
		return err
	}
	if err := again(s); !errors.Is(err, ErrSecret) {
		t.Errorf("in its own session: %v", err)
	}
	c2, s2, _, _ := pair(t, "a secret", "a secret")
	rec.Conn = c2.conn
	if err := again(s2); !errors.Is(err, ErrSecret) {
		t.Errorf("in another session: %v", err)
	}
	c3, _, _, _ := pair(t, "a secret", "a secret")
	c3.got = 0
	other, mine := net.Pipe()
	defer func() { _, _ = other.Close(), mine.Close() }()
	go func() { _, _ = other.Write(frame) }()
	c3.in.Reset(mine)
	if _, err := c3.read(0); !errors.Is(err, ErrSecret) {
		t.Errorf("to its sender: %v", err)
	}
}

func TestTextsRoundTrip(t *testing.T) {
	h := hello{toFetch, "node1", "snapshot"}
	if got, err := parseHello(h.encode()); err != nil || got != h {
		t.Errorf("got %+v, %v", got, err)
	}
	w := welcome{"node2", 1 << 60}
	if got, err := parseWelcome(w.append(nil)); err != nil || got != w {
		t.Errorf("got %+v, %v", got, err)
	}
	segs := []core.Segment{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/64")}
	want := map[core.Segment]uint32{segs[0]: 300, segs[1]: 0}
	got, err := parseCounts(appendCounts(nil, segs, map[core.Segment]uint32{segs[0]: 300}))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}

func FuzzTexts(f *testing.F) {
	f.Add(hello{toFetch, "node1", "snapshot"}.encode())
	f.Add(welcome{"node2", 1 << 60}.append(nil))
	f.Add(appendCounts(nil, []core.Segment{netip.MustParsePrefix("192.0.2.0/24")}, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := parseHello(b); err == nil {
			if again, err := parseHello(h.encode()); err != nil || again != h {
				t.Errorf("%+v became %+v, %v", h, again, err)
			}
		}
		_, _ = parseWelcome(b)
		if c, err := parseCounts(b); err == nil && len(c) > len(b) {
			t.Errorf("%d counts in %d bytes", len(c), len(b))
		}
		_, _ = taken(b)
	})
}

// stream is a connection from which hostile bytes come.
type stream struct {
	net.Conn
	io.Reader
}

func (s stream) Read(b []byte) (int, error)       { return s.Reader.Read(b) }
func (s stream) Write(b []byte) (int, error)      { return len(b), nil }
func (s stream) Close() error                     { return nil }
func (s stream) SetDeadline(time.Time) error      { return nil }
func (s stream) SetReadDeadline(time.Time) error  { return nil }
func (s stream) SetWriteDeadline(time.Time) error { return nil }

func FuzzSession(f *testing.F) {
	greeting := append([]byte{sessionVersion, 0}, make([]byte, nonceLen)...)
	f.Add(append(bytes.Clone(greeting), 0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0), false)
	f.Add(append(bytes.Clone(greeting), 0xff, 0xff, 0xff, 0xff), false)
	greeting[1] = 1
	f.Add(append(bytes.Clone(greeting), 0, 0, 0, 16, 1, 2, 3), true)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		secret := ""
		if sealed {
			secret = "a secret"
		}
		s, err := greet(stream{Reader: bytes.NewReader(b)}, []byte(secret), server)
		for err == nil {
			var got []byte
			if got, err = s.read(0); len(got) > maxFrame || sealed && err == nil {
				t.Errorf("it takes %d bytes", len(got))
			}
		}
	})
}
