package liveness

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

const (
	sessionVersion = 1
	nonceLen       = 32
	// maxFrame bounds the payload of a frame in bytes.
	maxFrame = 64 << 10
	// handshakeTimeout bounds the time until both sides know each other.
	handshakeTimeout = 2 * time.Second
	// writeTimeout bounds the wait for room to write a frame.
	writeTimeout = 5 * time.Second
)

// Errors of sessions.
var (
	ErrSecret = errors.New("liveness: the other speaker has another secret")
	errFrame  = errors.New("liveness: malformed frame")
)

// session is a connection between two speakers. With a secret, each frame is sealed by
// AES-256-GCM under a key of this session and this direction, which both derive from the
// secret and a nonce of either side: nothing of one session can be played back in another
// one, or in another order, or to its sender. A session has one reader and one writer.
type session struct {
	conn       net.Conn
	in         *bufio.Reader
	seal, open cipher.AEAD // nil without a secret
	sent, got  uint64      // frames
	out        []byte
}

// side is which side of a session we are.
type side uint8

const (
	client side = iota
	server
)

// greet exchanges greetings on a new connection. The client has the first word; the
// magic byte of what it says is already read on the other side.
func greet(conn net.Conn, secret []byte, as side) (*session, error) {
	_ = conn.SetDeadline(time.Now().Add(handshakeTimeout))
	s := &session{conn: conn, in: bufio.NewReaderSize(conn, 4096)}
	mode := byte(0)
	if len(secret) > 0 {
		mode = 1
	}
	ours := make([]byte, 3+nonceLen)
	ours[0], ours[1], ours[2] = magic, sessionVersion, mode
	_, _ = rand.Read(ours[3:]) // never fails
	theirs := make([]byte, len(ours))
	read := func() error {
		from := theirs
		if as == server {
			from[0], from = magic, from[1:]
		}
		_, err := io.ReadFull(s.in, from)
		return err
	}
	write := func() error { _, err := conn.Write(ours); return err }
	steps := []func() error{write, read}
	if as == server {
		slices.Reverse(steps)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, fmt.Errorf("greet speaker: %w", err)
		}
	}
	switch {
	case theirs[0] != magic || theirs[1] == 0:
		return nil, errFrame
	case theirs[2] != mode:
		return nil, fmt.Errorf("%w: one of us has none", ErrSecret)
	case mode == 0:
		return s, nil
	}
	first, second := ours[3:], theirs[3:]
	if as == server {
		first, second = second, first
	}
	toServer, err := directionKey(secret, first, second, "client to server")
	if err != nil {
		return nil, err
	}
	toClient, err := directionKey(secret, first, second, "server to client")
	if err != nil {
		return nil, err
	}
	if s.seal, s.open = toServer, toClient; as == server {
		s.seal, s.open = toClient, toServer
	}
	return s, nil
}

func directionKey(secret, first, second []byte, way string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, Key(secret), slices.Concat(first, second), "barelb liveness 1 "+way, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return cipher.NewGCM(block)
}

// write sends one frame of at most maxFrame bytes.
func (s *session) write(payload []byte) error {
	if len(payload) > maxFrame {
		return fmt.Errorf("%w: %d bytes to send", errFrame, len(payload))
	}
	n := len(payload)
	if s.seal != nil {
		n += s.seal.Overhead()
	}
	s.out = binary.BigEndian.AppendUint32(s.out[:0], uint32(n))
	if s.seal != nil {
		s.out = s.seal.Seal(s.out, count(s.sent), payload, nil)
	} else {
		s.out = append(s.out, payload...)
	}
	s.sent++
	_ = s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := s.conn.Write(s.out)
	return err
}

// read receives one frame, within the given time; 0 means without end.
func (s *session) read(within time.Duration) ([]byte, error) {
	deadline := time.Time{}
	if within > 0 {
		deadline = time.Now().Add(within)
	}
	_ = s.conn.SetReadDeadline(deadline)
	var head [4]byte
	if _, err := io.ReadFull(s.in, head[:]); err != nil {
		return nil, err
	}
	n, most := binary.BigEndian.Uint32(head[:]), uint32(maxFrame)
	if s.open != nil {
		most += uint32(s.open.Overhead())
	}
	if n > most {
		return nil, fmt.Errorf("%w: %d bytes", errFrame, n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(s.in, b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if s.open == nil {
		return b, nil
	}
	out, err := s.open.Open(b[:0], count(s.got), b, nil)
	if err != nil {
		return nil, fmt.Errorf("%w, or somebody has changed what it says", ErrSecret)
	}
	s.got++
	return out, nil
}

func (s *session) close() { _ = s.conn.Close() }

// count returns the nonce of the frame with that number, which is sealed under a key
// that no other session has.
func count(n uint64) []byte {
	var b [12]byte
	binary.BigEndian.PutUint64(b[4:], n)
	return b[:]
}

// purpose is what a session is for.
type purpose byte

const (
	toWatch purpose = 1 // to hold, with beats in both directions
	toTell  purpose = 2 // to deliver one message
	toFetch purpose = 3 // to get what the other serves by a name
)

// hello is the first frame of a client; welcome that of a server.
type hello struct {
	purpose purpose
	node    string // the client's
	what    string // of toFetch
}

func (h hello) encode() []byte {
	b := []byte{byte(h.purpose)}
	return appendText(appendText(b, h.node), h.what)
}

func parseHello(b []byte) (hello, error) {
	if len(b) == 0 {
		return hello{}, errFrame
	}
	h := hello{purpose: purpose(b[0])}
	var ok1, ok2 bool
	h.node, b, ok1 = cutText(b[1:])
	h.what, _, ok2 = cutText(b)
	if !ok1 || !ok2 || h.node == "" {
		return hello{}, fmt.Errorf("%w: hello", errFrame)
	}
	return h, nil
}

type welcome struct {
	node        string
	incarnation uint64
}

func (w welcome) append(b []byte) []byte {
	return binary.BigEndian.AppendUint64(appendText(b, w.node), w.incarnation)
}

func parseWelcome(b []byte) (welcome, error) {
	node, b, ok := cutText(b)
	if !ok || len(b) < 8 {
		return welcome{}, fmt.Errorf("%w: welcome", errFrame)
	}
	return welcome{node, binary.BigEndian.Uint64(b)}, nil
}

// appendText appends a text of at most 255 bytes.
func appendText(b []byte, s string) []byte {
	s = s[:min(len(s), 255)]
	return append(append(b, byte(len(s))), s...)
}

func cutText(b []byte) (string, []byte, bool) {
	if len(b) == 0 || len(b) < 1+int(b[0]) {
		return "", nil, false
	}
	n := 1 + int(b[0])
	return string(b[1:n]), b[n:], true
}
