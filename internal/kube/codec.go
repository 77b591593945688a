package kube

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

// A snapshot is written as lines of JSON, gzipped: fields that one version does not
// know are left out by it, so that neighbouring versions understand each other. A
// change that they could not understand is a new snapshotVersion.
const (
	snapshotVersion = 1
	snapshotMax     = 64 << 20 // bytes, both compressed and not
	lineMax         = 4 << 20  // bytes; the longest is that of the configuration
	linesMax        = 250_000
)

// line is one line of a snapshot: the first has Version alone, the others one of
// the other fields.
type line struct {
	Version  int              `json:",omitempty"`
	Service  *savedService    `json:",omitempty"`
	Node     *knownNode       `json:",omitempty"`
	Conflict *lb.WireConflict `json:",omitempty"`
	Speaker  *speakerAt       `json:",omitempty"`
	Objects  *config.Objects  `json:",omitempty"`
}

type speakerAt struct {
	Node string
	Addr netip.Addr
}

func (s *snapshot) encode() ([]byte, error) {
	var out bytes.Buffer
	zip, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, fmt.Errorf("compress snapshot: %w", err)
	}
	size, lines := 0, 0
	write := func(l line) {
		b, e := json.Marshal(l)
		size, lines = size+len(b)+1, lines+1
		switch {
		case err != nil:
		case e != nil:
			err = e
		case len(b) >= lineMax || size > snapshotMax || lines > linesMax:
			err = errors.New("the state of the cluster is too large")
		default:
			_, err = zip.Write(append(b, '\n'))
		}
	}
	write(line{Version: snapshotVersion})
	write(line{Objects: s.objects})
	for _, n := range sortedNodes(s.nodes) {
		known := s.nodes[n.Name]
		write(line{Node: &known})
	}
	for _, name := range slices.Sorted(maps.Keys(s.speakers)) {
		write(line{Speaker: &speakerAt{name, s.speakers[name]}})
	}
	for _, c := range sortedConflicts(s.conflicts) {
		write(line{Conflict: &c})
	}
	for _, key := range slices.SortedFunc(maps.Keys(s.services), lb.Key.Compare) {
		svc := s.services[key]
		write(line{Service: &svc})
	}
	if err == nil {
		err = zip.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("write snapshot: %w", err)
	}
	return out.Bytes(), nil
}

func decodeSnapshot(data []byte) (*snapshot, error) {
	if len(data) > snapshotMax {
		return nil, fmt.Errorf("read snapshot: %d bytes are too many", len(data))
	}
	zip, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	limited := &io.LimitedReader{R: zip, N: snapshotMax + 1}
	scan := bufio.NewScanner(limited)
	scan.Buffer(nil, lineMax)
	s := &snapshot{
		services: map[lb.Key]savedService{}, nodes: map[string]knownNode{}, conflicts: map[netip.Addr]lb.WireConflict{},
		speakers: map[string]netip.Addr{},
	}
	n := 0
	for ; scan.Scan(); n++ {
		var l line
		if err := json.Unmarshal(scan.Bytes(), &l); err != nil {
			return nil, fmt.Errorf("read snapshot: line %d: %w", n+1, err)
		}
		if n == 0 && l.Version != snapshotVersion {
			return nil, fmt.Errorf("read snapshot: it is of version %d, not %d", l.Version, snapshotVersion)
		}
		if err := s.add(l); err != nil {
			return nil, fmt.Errorf("read snapshot: line %d: %w", n+1, err)
		}
		if n >= linesMax {
			return nil, errors.New("read snapshot: it has too many lines")
		}
	}
	switch {
	case scan.Err() != nil:
		return nil, fmt.Errorf("read snapshot: %w", scan.Err())
	case limited.N <= 0:
		return nil, errors.New("read snapshot: it is too large")
	case s.objects == nil:
		return nil, errors.New("read snapshot: it has no configuration")
	}
	return s, nil
}

// add takes what a line says. Of a kind that this version does not know, that is
// nothing.
func (s *snapshot) add(l line) error {
	if o := l.Objects; o != nil {
		if s.objects != nil {
			return errors.New("a second configuration")
		}
		s.objects = withoutSecrets(o)
	}
	if o := l.Service; o != nil {
		if o.Key.Namespace == "" || o.Key.Name == "" || !allValid(o.ClusterIPs, o.Requested, o.Addrs) {
			return errors.New("a Service without a name, or with a bad address")
		}
		o.Endpoints = distinctEndpoints(o.Endpoints)
		s.services[o.Key] = *o
	}
	if o := l.Node; o != nil {
		if o.Name == "" || !allValid(o.Addrs) {
			return errors.New("a node without a name, or with a bad address")
		}
		s.nodes[o.Name] = *o
	}
	if o := l.Conflict; o != nil {
		if !o.Addr.IsValid() {
			return errors.New("a conflict about no address")
		}
		s.conflicts[o.Addr] = *o
	}
	if o := l.Speaker; o != nil {
		if o.Node == "" || !o.Addr.IsValid() {
			return errors.New("a speaker without a node, or without an address")
		}
		s.speakers[o.Node] = o.Addr
	}
	return nil
}

func allValid(lists ...[]netip.Addr) bool {
	return !slices.ContainsFunc(slices.Concat(lists...), func(a netip.Addr) bool { return !a.IsValid() })
}

// sortedNodes returns nodes by name. It is never nil.
func sortedNodes(nodes map[string]knownNode) []lb.Node {
	out := make([]lb.Node, 0, len(nodes))
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		out = append(out, nodes[name].Node)
	}
	return out
}

// sortedConflicts returns conflicts by address. It is never nil.
func sortedConflicts(conflicts map[netip.Addr]lb.WireConflict) []lb.WireConflict {
	out := slices.SortedFunc(maps.Values(conflicts), func(a, b lb.WireConflict) int { return a.Addr.Compare(b.Addr) })
	if out == nil {
		return []lb.WireConflict{}
	}
	return out
}
