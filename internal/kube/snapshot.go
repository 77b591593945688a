package kube

import (
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

// ErrNothingKnown is what Export returns before anything was read or imported.
var ErrNothingKnown = errors.New("nothing is known of the cluster yet")

// snapshot is the state of the cluster that a speaker needs to announce. But for what
// a reader has yet to be told of it, it is never changed.
type snapshot struct {
	services  map[lb.Key]savedService
	nodes     map[string]knownNode
	conflicts map[netip.Addr]lb.WireConflict
	speakers  map[string]netip.Addr // by node
	objects   *config.Objects       // never nil; without Secrets and passwords

	dirty map[lb.Key]bool // Services that the reader is to be told of
	fresh bool            // the rest is news too
}

// savedService is a Service with its endpoints.
type savedService struct {
	lb.Service
	Endpoints []lb.Endpoint // sorted, no duplicates
}

// Export returns the present state for Import of another speaker's Feed: Services
// with their endpoints, nodes, configuration, address conflicts, and where speakers
// are. It holds no Secret and no password. What was imported and not yet replaced is
// exported as well. It costs time in proportion to the state, and may be called from
// any goroutine. It fails with ErrNothingKnown before there is a state, and if that
// is too large for Import.
func (f *Feed) Export() ([]byte, error) {
	s := f.snapshot()
	if s == nil {
		return nil, ErrNothingKnown
	}
	return s.encode()
}

// snapshot returns the present state, or nil if there is none yet.
func (f *Feed) snapshot() *snapshot {
	speakers := f.c.speakers.all()
	f.mu.Lock()
	switch {
	case !f.heard && f.imported == nil:
		f.mu.Unlock()
		return nil
	case !f.heard:
		defer f.mu.Unlock()
		return f.imported
	}
	// What takes long is done with copies, so that the feed goes on meanwhile.
	services, namespaces := maps.Clone(f.services), maps.Clone(f.namespaces)
	endpoints := make(map[lb.Key][]lb.Endpoint, len(f.endpoints))
	for key, bySlice := range f.endpoints {
		for _, eps := range bySlice {
			endpoints[key] = append(endpoints[key], eps...)
		}
	}
	s := &snapshot{
		services: make(map[lb.Key]savedService), nodes: maps.Clone(f.nodes), conflicts: maps.Clone(f.conflicts),
		speakers: speakers, objects: withoutSecrets(f.objects),
	}
	f.mu.Unlock()
	for key, o := range services {
		labels, known := namespaces[key.Namespace]
		if svc := convertService(o, f.c.opts.LoadBalancerClass, labels); svc != nil && known {
			s.services[key] = savedService{*svc, distinctEndpoints(endpoints[key])}
		}
	}
	return s
}

// distinctEndpoints sorts endpoints and drops those that say what another one says.
func distinctEndpoints(eps []lb.Endpoint) []lb.Endpoint {
	slices.SortFunc(eps, lb.Endpoint.Compare)
	return slices.Clip(slices.Compact(eps))
}

// withoutSecrets returns objs without Secrets and passwords.
func withoutSecrets(objs *config.Objects) *config.Objects {
	out := *objs
	out.Secrets = nil
	out.Peers = slices.Clone(objs.Peers)
	for i := range out.Peers {
		p := &out.Peers[i]
		p.Withheld = p.Withheld || p.Password != "" || p.PasswordSecret != ""
		p.Password = ""
	}
	return &out
}

// Import has the feed begin with what another speaker's Export returned, while the
// API server has not been heard: the feed is ready with it at once. As soon as
// everything was read from the API server, that replaces it, and what is not there
// is gone. A peer with a password has no session until then. Once the API server was
// heard, Import has no effect; a second Import replaces the first.
//
// data may be hostile: it costs no more than some hundred MB of memory, and an error.
func (f *Feed) Import(data []byte) error {
	s, err := decodeSnapshot(data)
	if err != nil {
		return err
	}
	f.mu.Lock()
	if f.heard {
		f.mu.Unlock()
		return nil
	}
	s.fresh, s.dirty = true, map[lb.Key]bool{}
	for key := range s.services {
		s.dirty[key] = true
	}
	if f.imported != nil {
		for key := range f.imported.services {
			s.dirty[key] = true
		}
	}
	f.imported = s
	f.mu.Unlock()
	f.becomeReady()
	f.signal()
	return nil
}

// hear has what was read from the API server replace what was imported, if anything.
func (f *Feed) hear() {
	f.mu.Lock()
	before := f.imported
	f.heard, f.imported = true, nil
	if before != nil {
		for key := range before.services {
			f.dirty[key] = true
		}
		f.rewind()
	}
	f.mu.Unlock()
	f.becomeReady()
	if before != nil {
		f.c.opts.Log.Info("the API server has answered: its state replaces that of another speaker")
		f.signal()
	}
}

func (f *Feed) becomeReady() { f.once.Do(func() { close(f.ready) }) }

// drain returns what the reader is to be told. Feed.mu is held.
func (s *snapshot) drain() Delta {
	d := Delta{Services: map[lb.Key]*lb.Service{}, Endpoints: map[lb.Key][]lb.Endpoint{}, Claims: map[netip.Addr][]lb.Holder{}}
	for key := range s.dirty {
		d.Services[key] = nil
		if svc, ok := s.services[key]; ok {
			d.Services[key], d.Endpoints[key] = &svc.Service, svc.Endpoints
		}
	}
	if s.fresh {
		d.Nodes, d.Conflicts, d.Objects = sortedNodes(s.nodes), sortedConflicts(s.conflicts), s.objects
	}
	s.dirty, s.fresh = map[lb.Key]bool{}, false
	return d
}

// rewind makes everything part of the next Delta. Feed.mu is held.
func (s *snapshot) rewind() {
	for key := range s.services {
		s.dirty[key] = true
	}
	s.fresh = true
}

// node returns a node as it is known, or nil, and whether all nodes were read from
// the API server.
func (f *Feed) node(name string) (n *knownNode, heard bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	nodes := f.nodes
	if f.imported != nil {
		nodes = f.imported.nodes
	}
	if o, ok := nodes[name]; ok {
		return &o, f.heard
	}
	return nil, f.heard
}
