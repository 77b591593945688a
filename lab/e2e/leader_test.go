package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/lab/box"
	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/system"
)

const (
	leaseName = "barelb-controller"
	// succession is how long a controller may take to follow another one that is gone:
	// far more than the lease, for a busy machine.
	succession = 20 * time.Second
)

// pair is two controllers, of which the one that holds the Lease is at work.
type pair struct {
	l     *lab
	procs map[string]*box.Process // by the names of their Pods
}

// The names of the controllers' Pods. The first is the one that every lab has.
const (
	primary = "controller"
	standby = "standby"
)

// leaders returns the cluster that tests of several controllers share.
func leaders(t *testing.T) *lab {
	t.Helper()
	return use(t, cluster.Config{Name: "e2e-leaders", Nodes: 1, Router: cluster.NoRouter})
}

// pair starts a second controller for the time of a test.
func (l *lab) pair(t *testing.T) *pair {
	t.Helper()
	p := &pair{l: l, procs: map[string]*box.Process{primary: l.sys.Controller()}}
	t.Cleanup(func() {
		if t.Failed() {
			l.dump(t)
			t.Logf("%s:\n%s", standby, l.logTail(cluster.Control, standby))
		}
		for _, proc := range p.procs { // a stopped process does not hear SIGTERM
			_ = proc.Signal(syscall.SIGCONT)
		}
		if proc := p.procs[standby]; proc != nil {
			_ = proc.Stop(patience)
		}
	})
	must(t, p.restart(t.Context(), ""))
	p.awaitLeader(t, "")
	return p
}

// restart starts the controllers that have ended, as a kubelet would, but for one.
func (p *pair) restart(ctx context.Context, but string) error {
	var errs []error
	for _, name := range []string{primary, standby} {
		switch proc := p.procs[name]; {
		case name == but, proc != nil && !ended(proc):
		case name == primary:
			errs = append(errs, p.l.sys.StartController(ctx))
			p.procs[name] = p.l.sys.Controller()
		default:
			proc, err := p.l.sys.StartNamedController(ctx, name, "--health-probe-port=17473", "--port=0")
			errs = append(errs, err)
			if err == nil {
				p.procs[name] = proc
			}
		}
	}
	return errors.Join(errs...)
}

// leader is the controller that holds the Lease, "" if nobody does.
func (p *pair) leader(ctx context.Context) (string, error) {
	lease, err := p.l.kube.CoordinationV1().Leases(system.Namespace).Get(ctx, leaseName, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	holder := ""
	if id := lease.Spec.HolderIdentity; id != nil {
		holder = *id
	}
	for name := range p.procs {
		if strings.HasPrefix(holder, name) {
			return name, nil
		}
	}
	if holder != "" {
		return "", fmt.Errorf("the lease is held by %q, whom nobody knows", holder)
	}
	return "", nil
}

// awaitLeader waits until a controller leads that is not the one named. Another that
// ends meanwhile is started again; were that one, it could be the first to find the
// Lease that it gave back.
func (p *pair) awaitLeader(t *testing.T, not string) string {
	t.Helper()
	var name string
	within(t, succession, "a leader other than "+not, func() error {
		if err := p.restart(t.Context(), not); err != nil {
			return err
		}
		var err error
		name, err = p.leader(t.Context())
		if err == nil && (name == "" || name == not) {
			err = fmt.Errorf("it is %q", name)
		}
		return err
	})
	return name
}

// allocations counts the Events that say that a Service was given its addresses, of
// Services whose names start with prefix.
func (l *lab) allocations(ctx context.Context, prefix string) (map[string]int, error) {
	all, err := l.kube.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "reason=IPAllocated"})
	if err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	out := map[string]int{}
	for i := range all.Items {
		e := &all.Items[i]
		if !strings.HasPrefix(e.InvolvedObject.Name, prefix) {
			continue
		}
		out[gain(e.InvolvedObject.UID, e.Message)] += max(1, int(e.Count))
	}
	return out, nil
}

// TestHandOver ends the leader, once so that it can say goodbye and once not: the
// other must give addresses, and leave all others as they are.
func TestHandOver(t *testing.T) {
	l := leaders(t)
	p := l.pair(t)
	l.apply(t, pool("over", []string{"198.18.0.0/24"}))
	const held = 20
	for i := range held {
		l.create(t, system.Service{Name: fmt.Sprintf("over-%02d", i)})
	}
	l.awaitAudit(t)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			must(t, p.restart(t.Context(), ""))
			leader := p.awaitLeader(t, "")
			h := l.follow(t)
			before := l.allHeld(t)
			name := "over-" + strings.ReplaceAll(signal.String(), " ", "-")
			start := time.Now()
			must(t, p.procs[leader].Signal(signal))
			l.create(t, system.Service{Name: name})
			within(t, succession, "the address of "+name, func() error {
				svc, err := l.service(t.Context(), name)
				if err == nil && len(addressesOf(svc)) == 0 {
					err = errors.New("it has none")
				}
				return err
			})
			t.Logf("%s to %s: address of a new Service after %s", signal, leader, time.Since(start).Round(time.Millisecond))
			<-p.procs[leader].Done()
			if now := p.awaitLeader(t, leader); now == leader {
				t.Errorf("%s leads still", leader)
			}
			l.awaitAudit(t)
			l.awaitSeen(t, h)
			after := l.allHeld(t)
			delete(after, name)
			if !maps.Equal(before, after) {
				t.Errorf("addresses have changed:\nbefore %v\nafter  %v", before, after)
			}
			l.wantNoFaults(t, h)
			l.awaitEvent(t, namespace, "Service", name, "IPAllocated") // and those before it
		})
	}
	// Who follows knows what is given, and has no news to tell of it.
	events, err := l.allocations(t.Context(), "over-")
	must(t, err)
	for what, n := range events {
		if n != 1 {
			t.Errorf("%d Events say %s", n, what)
		}
	}
	if len(events) < held {
		t.Errorf("%d Services have an Event of their allocation, want %d at least", len(events), held)
	}
}

// allHeld maps all Services to the addresses that they have.
func (l *lab) allHeld(t *testing.T) map[string]string {
	t.Helper()
	all, err := l.kube.CoreV1().Services(namespace).List(t.Context(), metav1.ListOptions{})
	must(t, err)
	return held(all.Items)
}

// wantNoFaults wants no address to have been given twice.
func (l *lab) wantNoFaults(t *testing.T, h *history) {
	t.Helper()
	faults, seen, _ := h.faultsSoFar()
	if seen == 0 {
		t.Error("the watch has seen nothing")
	}
	const most = 10
	for _, f := range faults[:min(len(faults), most)] {
		t.Error(f)
	}
}
