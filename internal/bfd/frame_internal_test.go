package bfd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	core "github.com/barelb/barelb/internal/core/bfd"
	"github.com/barelb/barelb/internal/core/lb"
)

// examples are frames in which everything that can be is set.
func examples() (order, []report) {
	key := lb.BFDKey{
		Peer: netip.MustParseAddr("fe80::1%eth0"), Source: netip.MustParseAddr("fe80::2"), Link: "eth0", VRF: "red", MultiHop: true,
	}
	p := lb.BFDProfile{
		Name: "p", Transmit: time.Second, Receive: time.Minute, Multiplier: 3, Echo: true, EchoInterval: time.Millisecond,
		Passive: true, Strict: true, MinTTL: 254,
	}
	st := SessionStatus{
		Key: key, Profile: "p", Port: 50000, Since: time.Unix(1, 2), LastDown: time.Unix(3, 4), LastDiag: core.NeighborDown, Problem: "why",
		Status: core.Status{
			State: core.Up, RemoteState: core.Init, Diag: 1, RemoteDiag: 2, Discr: 3, RemoteDiscr: 1<<32 - 1, Transmit: 5, Detection: 6,
			RemoteTransmit: 7, RemoteReceive: 8, RemoteEcho: 9, RemoteMultiplier: 10, Poll: true, Echo: 11, EchoWorks: true,
		},
		Counters: Counters{1, 2, 3, 4, 5, 6, 7, 8, 9},
	}
	realTime := true
	return order{Resume: []SessionStatus{st, {}}, Want: listed(lb.BFD{key: p}), Ask: 1, Stop: true}, []report{
		{RealTime: &realTime},
		{Change: &lb.BFDChange{Key: key, Up: true, Admin: true, Diag: "d"}},
		{Line: &line{slog.LevelWarn, "m", []attr{{"a", "b"}, {"c", true}}}},
		{Snapshot: &snapshot{Answers: 1<<64 - 1, Changed: true, Sessions: []SessionStatus{st, {}}}},
	}
}

// TestFrames: what is read is what was written.
func TestFrames(t *testing.T) {
	var wire bytes.Buffer
	o, reports := examples()
	if err := writeFrame(&wire, o); err != nil {
		t.Fatal(err)
	}
	same := cmp.Options{cmpopts.EquateComparable(netip.Addr{})}
	var got order
	if err := readFrame(&wire, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(o, got, same); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
	for _, rep := range reports {
		if err := writeFrame(&wire, rep); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range reports {
		var got report
		if err := readFrame(&wire, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, same); diff != "" {
			t.Errorf("(-written +read):\n%s", diff)
		}
	}
	if err := readFrame(&wire, &got); !errors.Is(err, io.EOF) {
		t.Errorf("after the last frame: %v", err)
	}
}

// TestDesired: an empty desired state is one too.
func TestDesired(t *testing.T) {
	for _, want := range []lb.BFD{{}, {{Peer: netip.MustParseAddr("10.0.0.1")}: {Name: "a"}, {Peer: netip.MustParseAddr("10.0.0.2")}: {}}} {
		var wire bytes.Buffer
		var got order
		if err := errors.Join(writeFrame(&wire, order{Want: listed(want)}), readFrame(&wire, &got)); err != nil {
			t.Fatal(err)
		}
		if got.Want == nil {
			t.Fatalf("%v got lost", want)
		}
		if diff := cmp.Diff(want, desired(*got.Want), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// frame returns a text with its length, or with one that is wrong by some bytes.
func frame(text string, wrong int) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(text)+wrong)), text...)
}

func badFrames() map[string][]byte {
	return map[string][]byte{
		"half a length":  {0, 0},
		"no text":        {0, 0, 0, 9},
		"cut short":      frame(`{"Ask":1}`, 3),
		"too long":       {0xff, 0xff, 0xff, 0xff, '{', '}'},
		"no JSON":        frame("\x00\x01", 0),
		"empty":          frame("", 0),
		"another type":   frame(`[1]`, 0),
		"two values":     frame(`{}{}`, 0),
		"a bad address":  frame(`{"Want":[{"Key":{"Peer":"x"}}],"Change":{"Key":{"Peer":"x"}}}`, 0),
		"out of range":   frame(`{"Ask":-1,"Snapshot":{"Answers":-1}}`, 0),
		"wrong time":     frame(`{"Resume":[{"Since":"x"}],"Snapshot":{"Sessions":[{"Since":"x"}]}}`, 0),
		"deeply nested":  frame(strings.Repeat("[", 20_000), 0),
		"a high surplus": frame(`{"Want":[{"Profile":{"Multiplier":256}}],"Line":{"Level":"x"}}`, 0),
	}
}

// TestBadFrames are errors, and neither end panics of them.
func TestBadFrames(t *testing.T) {
	for name, wire := range badFrames() {
		for _, into := range []any{&order{}, &report{}} {
			if err := readFrame(bytes.NewReader(wire), into); err == nil {
				t.Errorf("%s into %T: no error", name, into)
			}
		}
		for _, first := range [][]byte{nil, frame(`{"Want":[]}`, 0)} {
			if err := serveBytes(t, append(first, wire...)); err == nil {
				t.Errorf("%s: the process ends as if it was told to", name)
			}
		}
	}
}

// serveBytes has a process read bytes, then end of file, and returns how it ends.
func serveBytes(t *testing.T, wire []byte) error {
	t.Helper()
	theirs, ours := net.Pipe()
	ended := make(chan error, 1)
	go func() {
		defer theirs.Close()
		ended <- serve(theirs, func(func(bool), <-chan struct{}) error { return nil })
	}()
	go func() { _, _ = io.Copy(io.Discard, ours) }()
	_, _ = ours.Write(wire)
	_ = ours.Close()
	select {
	case err := <-ended:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
		return nil
	}
}

// TestServeStops: told to stop, a process says all that it has to say and ends well.
func TestServeStops(t *testing.T) {
	theirs, ours := net.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- serve(theirs, func(tell func(bool), _ <-chan struct{}) error { tell(false); return nil })
		_ = theirs.Close()
	}()
	said := make(chan []report, 1)
	go func() {
		var all []report
		for {
			var rep report
			if readFrame(ours, &rep) != nil {
				said <- all
				return
			}
			all = append(all, rep)
		}
	}()
	for _, o := range []order{{Want: listed(nil), Ask: 7}, {Stop: true}} {
		if err := writeFrame(ours, o); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if all := <-said; !slices.ContainsFunc(all, func(rep report) bool { return rep.RealTime != nil }) {
		t.Errorf("said %+v, and nothing of its priority", all)
	}
}

// FuzzFrames feeds both ends with what may come.
func FuzzFrames(f *testing.F) {
	o, reports := examples()
	for _, frames := range [][]any{{o}, {reports[0], reports[1], reports[2], reports[3]}, {reports[3], reports[1]}} {
		var wire bytes.Buffer
		for _, frame := range frames {
			if err := writeFrame(&wire, frame); err != nil {
				f.Fatal(err)
			}
		}
		f.Add(wire.Bytes())
	}
	for _, wire := range badFrames() {
		f.Add(wire)
	}
	f.Fuzz(func(_ *testing.T, wire []byte) {
		k := &keeper{Runner: New(Config{}), up: map[lb.BFDKey]bool{}}
		for r := bytes.NewReader(wire); ; {
			var rep report
			if readFrame(r, &rep) != nil {
				break
			}
			k.hear(rep)
			k.settle(time.Unix(0, 0))
			k.answer(1)
		}
		for r := bytes.NewReader(wire); ; {
			var o order
			if readFrame(r, &o) != nil {
				break
			}
			if o.Want == nil {
				continue
			}
			want := desired(*o.Want)
			_ = New(Config{}).Apply(context.Background(), want)
			for _, st := range o.Resume {
				s := core.Resume(want[st.Key], st.Status, time.Unix(0, 0), 1, func() float64 { return 0.5 })
				s.Step(time.Unix(1, 0), core.Tick{})
				s.Status()
			}
		}
	})
}
