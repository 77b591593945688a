package liveness

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// maxFetch bounds what Fetch takes, in bytes.
const maxFetch = 64 << 20

// fetchTimeout bounds the wait for the next part of what is fetched.
const fetchTimeout = 5 * time.Second

// Tell delivers a message of at most 64 KiB to the speaker of a node, whose Config.Told
// gets it. It returns nil once that has taken it, within 2 s of being connected or as long
// as ctx allows.
func (r *Runner) Tell(ctx context.Context, node string, msg []byte) error {
	s, _, err := r.dial(ctx, node, hello{purpose: toTell})
	if err != nil {
		return err
	}
	defer s.close()
	defer context.AfterFunc(ctx, s.close)()
	if err := s.write(msg); err != nil {
		return fmt.Errorf("tell speaker of %s: %w", node, err)
	}
	b, err := s.read(handshakeTimeout)
	if err != nil {
		return fmt.Errorf("tell speaker of %s: %w", node, err)
	}
	if _, err := taken(b); err != nil {
		return fmt.Errorf("tell speaker of %s: %w", node, err)
	}
	return nil
}

// taken reads an answer: a part of what was asked for, or nil at its end.
func taken(b []byte) ([]byte, error) {
	switch {
	case len(b) == 1 && b[0] == answerDone:
		return nil, nil
	case len(b) > 1 && b[0] == answerData:
		return b[1:], nil
	case len(b) > 0 && b[0] == answerFailed:
		return nil, errors.New(string(b[1:]))
	}
	return nil, errFrame
}

// Serve makes what f returns available to Fetch of others, by a name of at most 255
// bytes. f may be called by any goroutine; what it returns must not be changed any more.
func (r *Runner) Serve(what string, f func() ([]byte, error)) { r.served.Store(what, f) }

// Fetch gets what the speaker of a node serves by a name, at most 64 MiB.
func (r *Runner) Fetch(ctx context.Context, node, what string) ([]byte, error) {
	s, _, err := r.dial(ctx, node, hello{purpose: toFetch, what: what})
	if err != nil {
		return nil, err
	}
	defer s.close()
	defer context.AfterFunc(ctx, s.close)()
	var out []byte
	for {
		b, err := s.read(fetchTimeout)
		if err != nil {
			return nil, fmt.Errorf("fetch %s from the speaker of %s: %w", what, node, err)
		}
		part, err := taken(b)
		if err != nil {
			return nil, fmt.Errorf("fetch %s from the speaker of %s: %w", what, node, err)
		}
		if part == nil {
			return out, nil
		}
		if len(out)+len(part) > maxFetch {
			return nil, fmt.Errorf("fetch %s from the speaker of %s: more than %d bytes", what, node, maxFetch)
		}
		out = append(out, part...)
	}
}
