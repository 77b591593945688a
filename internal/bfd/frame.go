package bfd

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/barelb/barelb/internal/core/lb"
)

// A Runner and the process that keeps its sessions exchange frames: the length of the
// text in four bytes, and the text, which is JSON. Both are of one binary, so there are
// no versions.

// order is a frame from the Runner. The parts that are there are obeyed from top to
// bottom.
type order struct {
	// Resume, in the first frame alone, is what is known of the sessions.
	Resume []SessionStatus `json:",omitempty"`
	Want   *[]wanted       `json:",omitempty"` // the full desired state
	Ask    uint64          `json:",omitempty"` // an answer to this number is wanted
	Stop   bool            `json:",omitempty"`
}

// wanted is one entry of lb.BFD.
type wanted struct {
	Key     lb.BFDKey
	Profile lb.BFDProfile
}

// report is a frame to the Runner. One part of it is there.
type report struct {
	RealTime *bool         `json:",omitempty"` // whether all threads have the priority
	Change   *lb.BFDChange `json:",omitempty"`
	Line     *line         `json:",omitempty"`
	Snapshot *snapshot     `json:",omitempty"`
}

// line is one for the log.
type line struct {
	Level   slog.Level
	Message string
	Attrs   []attr
}

type attr struct {
	Key   string
	Value any // what JSON has
}

// snapshot is the status of all sessions.
type snapshot struct {
	Answers  uint64 // what was asked until then
	Changed  bool   // in more than its counters
	Sessions []SessionStatus
}

// maxFrame in bytes is more than ten thousand sessions take.
const maxFrame = 16 << 20

var errFrame = errors.New("bfd: a frame between the processes makes no sense")

// writeFrame writes a frame in one piece.
func writeFrame(w io.Writer, frame any) error {
	text, err := json.Marshal(frame)
	if err != nil {
		return fmt.Errorf("encode %T: %w", frame, err)
	}
	if len(text) > maxFrame {
		return fmt.Errorf("%w: %d bytes", errFrame, len(text))
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...))
	return err //nolint:wrapcheck // of the connection
}

// readFrame reads a frame. It returns io.EOF if there is none, and errFrame if what has
// come is none.
func readFrame(r io.Reader, frame any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err //nolint:wrapcheck // of the connection
	}
	length := int64(binary.BigEndian.Uint32(head[:]))
	if length > maxFrame {
		return fmt.Errorf("%w: %d bytes", errFrame, length)
	}
	var text bytes.Buffer // it grows with what really comes
	if n, err := io.CopyN(&text, r, length); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("%d bytes of %d: %w", n, length, err)
	}
	if err := json.Unmarshal(text.Bytes(), frame); err != nil {
		return fmt.Errorf("%w: %w", errFrame, err)
	}
	return nil
}

// listed returns the entries of a desired state.
func listed(want lb.BFD) *[]wanted {
	all := make([]wanted, 0, len(want))
	for key, p := range want {
		all = append(all, wanted{key, p})
	}
	return &all
}

// desired is what listed was made of.
func desired(all []wanted) lb.BFD {
	want := make(lb.BFD, len(all))
	for _, w := range all {
		want[w.Key] = w.Profile
	}
	return want
}
