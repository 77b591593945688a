package speaker

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/wire"
	"github.com/barelb/barelb/internal/kube"
)

// settleTime is how long changes are gathered before the window of addresses is looked
// at again. Addresses are asked about long before they are needed.
const settleTime = 200 * time.Millisecond

// What a Wire needs of the parts around it.
type (
	prober interface {
		Apply(want wire.Want)
		Report() (wire.Report, bool)
		Changed() <-chan struct{}
	}
	conflictWriter interface {
		Set(r wire.Report)
	}
)

// Wire has the addresses that are given next asked about, and conflicts reported. It
// works beside the plan, which only tells it what is new and never waits for it.
type Wire struct {
	node      string
	prober    prober // nil: nothing is asked, and what this node has reported is taken back
	conflicts conflictWriter

	window *wire.Window // owned by Run, as is want
	want   wire.Want

	mu   sync.Mutex
	next *news // nil: nothing
	wake chan struct{}
}

// news is what the plan has learned since it was taken last.
type news struct {
	services  map[lb.Key]*lb.Service
	nodes     []lb.Node
	cfg       *config.Config
	conflicts []lb.WireConflict
	alive     map[string]bool
}

// NewWire returns a Wire for a node. Without a prober nothing is asked, and conflicts
// that this node reported before are taken back.
func NewWire(node string, p prober, w conflictWriter) *Wire {
	return &Wire{node: node, prober: p, conflicts: w, window: wire.NewWindow(), want: wire.Want{Node: node}, wake: make(chan struct{}, 1)}
}

// tell takes what is new; cfg and alive are the present ones, alive nil if nobody
// watches who lives. It does not block.
func (w *Wire) tell(d kube.Delta, cfg *config.Config, alive map[string]bool) {
	w.mu.Lock()
	if w.next == nil {
		w.next = &news{services: map[lb.Key]*lb.Service{}}
	}
	n := w.next
	maps.Copy(n.services, d.Services)
	if d.Nodes != nil {
		n.nodes = d.Nodes
	}
	if d.Objects != nil {
		n.cfg = cfg
	}
	if d.Conflicts != nil {
		n.conflicts = d.Conflicts
	}
	n.alive = alive
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Run works until ctx ends. What was reported stays reported: who is started again
// knows it from the API server.
func (w *Wire) Run(ctx context.Context) error {
	var changed <-chan struct{}
	if w.prober != nil {
		changed = w.prober.Changed()
	}
	for began := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(settleTime):
			}
			if w.take() || !began {
				began = true
				w.apply()
			}
		case <-changed:
		}
		if began {
			w.report()
		}
	}
}

// take takes what is new. It reports whether that can change what is to be asked.
func (w *Wire) take() bool {
	w.mu.Lock()
	n := w.next
	w.next = nil
	w.mu.Unlock()
	if n == nil {
		return false
	}
	changed := false
	for key, svc := range n.services {
		if w.window.SetService(key, svc) {
			changed = true
		}
	}
	if n.nodes != nil {
		w.want.Nodes, changed = n.nodes, true
	}
	if n.cfg != nil {
		w.window.SetConfig(n.cfg)
		changed = true
	}
	if n.conflicts != nil && !slices.Equal(n.conflicts, w.want.Conflicts) {
		w.window.SetConflicts(n.conflicts)
		w.want.Conflicts, changed = n.conflicts, true
	}
	if (n.alive == nil) != (w.want.Alive == nil) || !maps.Equal(n.alive, w.want.Alive) {
		w.want.Alive, changed = n.alive, true
	}
	return changed
}

// apply says what is to be asked.
func (w *Wire) apply() {
	if w.prober == nil {
		return // and so there are no candidates
	}
	w.want.Candidates = w.window.Candidates()
	w.prober.Apply(w.want)
}

// report says what was found out.
func (w *Wire) report() {
	var r wire.Report
	if w.prober != nil {
		known := false
		if r, known = w.prober.Report(); !known {
			return
		}
	}
	r.Over = slices.Concat(r.Over, w.want.Abandoned())
	w.conflicts.Set(r)
}
