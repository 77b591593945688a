// Package demo measures Layer 2 and BGP on a cluster of the lab, in the terms of
// the README's comparison.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/examples"
	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

// The thresholds. A row of the table holds if what was measured keeps to them.
const (
	flows        = 300
	leastShare   = 15.0 // percent of the flows, for each node, with BGP
	l2Cut        = 800 * time.Millisecond
	held         = 50                     // connections open while a speaker is restarted
	plannedLimit = time.Second            // drains and returns
	bgpCut       = 500 * time.Millisecond // BFD's three intervals, and the router's reaction
)

// BFDInterval is that of the nodes' BFD, and must be that of the router's.
const BFDInterval = 100 * time.Millisecond

const service = "web"

// Demo is one run. Its zero value is not usable: use Run.
type Demo struct {
	c    *cluster.Cluster
	sys  *system.System
	self string // a binary with the instruments
	say  func(format string, args ...any)
	vip  netip.Addr

	victim string   // the node that fails
	hosts  []string // the nodes with a backend
}

// result is what was measured of one mode.
type result struct {
	responsible string // who is responsible for the address
	single      bool   // it is as the mode promises
	entry       []measure.Share
	spread      []measure.Share // over the pods' nodes
	everyPod    bool            // every pod took part
	reached     string
	reachable   bool
	cut         outage
	drain       outage
	back        outage
	restart     measure.HoldReport // of open connections, while a speaker is replaced
}

// outage is the longest time in which probes were lost.
type outage struct {
	length  time.Duration
	lost    int
	openEnd bool
}

// Run measures both modes on a cluster whose load balancer is installed, and
// prints the table to out. It reports whether every row holds.
func Run(ctx context.Context, sys *system.System, self string, out io.Writer, say func(format string, args ...any)) (bool, error) {
	d := &Demo{c: sys.Cluster(), sys: sys, self: self, say: say}
	if err := d.prepare(ctx); err != nil {
		return false, err
	}
	say("Layer 2")
	l2, err := d.layer2(ctx)
	if err != nil {
		return false, fmt.Errorf("layer 2: %w", err)
	}
	say("BGP")
	bgp, err := d.bgp(ctx)
	if err != nil {
		return false, fmt.Errorf("bgp: %w", err)
	}
	rows := d.rows(l2, bgp)
	return measure.Holds(rows), measure.Render(out, rows)
}

// prepare creates pool, Deployment and Service.
func (d *Demo) prepare(ctx context.Context) error {
	if err := d.c.ApplyYAML(ctx, examples.Pool); err != nil {
		return err
	}
	d.hosts = d.c.Nodes()
	if err := d.sys.PlaceBackends(ctx, d.hosts...); err != nil {
		return err
	}
	if err := d.sys.CreateService(ctx, system.Service{Name: service}); err != nil {
		return err
	}
	addrs, err := d.sys.AwaitAddresses(ctx, "default", service, 1)
	if err != nil {
		return err
	}
	d.vip = addrs[0]
	d.say("  the Service has %s", d.vip)
	return nil
}

func (d *Demo) layer2(ctx context.Context) (result, error) {
	var r result
	if err := d.c.ApplyYAML(ctx, examples.Layer2); err != nil {
		return r, err
	}
	owner, macs, err := d.awaitOwner(ctx, "")
	if err != nil {
		return r, err
	}
	r.single = len(macs) == 1
	r.responsible = fmt.Sprintf("one: %s answers ARP (%s)", owner, strings.Join(macs, ", "))
	d.say("  %s", r.responsible)
	if err := d.reach(ctx, &r); err != nil {
		return r, err
	}
	// From now on, with BGP too, this node is the one that fails. It has no pod:
	// the outage of a pod is not that of the address.
	d.victim = owner
	d.hosts = slices.DeleteFunc(slices.Clone(d.c.Nodes()), func(n string) bool { return n == owner })
	if err := d.sys.PlaceBackends(ctx, d.hosts...); err != nil {
		return r, err
	}
	whole := func(ctx context.Context) error {
		_, _, err := d.awaitOwner(ctx, owner)
		return errors.Join(err, d.awaitUse(ctx, true))
	}
	if err := d.failures(ctx, &r, whole, func(ctx context.Context) error {
		return errors.Join(d.awaitNotOwner(ctx, owner), d.awaitUse(ctx, false))
	}); err != nil {
		return r, err
	}
	if err := d.restart(ctx, &r, whole); err != nil {
		return r, err
	}
	_, err = d.c.Kubectl(ctx, "-n", system.Namespace, "delete", "l2advertisement", "layer2")
	return r, err
}

func (d *Demo) bgp(ctx context.Context) (result, error) {
	var r result
	cfg := d.c.Config().BGP
	for _, manifest := range []string{
		BFDProfile(BFDInterval), Peer("router1", "192.168.1.1", cfg.NodeAS, cfg.RouterAS, cfg.HoldTime.String()) + WithBFD + WithGracefulRestart,
		BGPAdvertisement,
	} {
		if err := d.c.ApplyYAML(ctx, manifest); err != nil {
			return r, err
		}
	}
	hops, err := d.awaitHops(ctx, len(d.c.Nodes()))
	if err != nil {
		return r, err
	}
	r.single = len(hops) == len(d.c.Nodes())
	r.responsible = fmt.Sprintf("all %d: next hops %s", len(hops), strings.Join(hops, ", "))
	d.say("  %s", r.responsible)
	if err := d.reach(ctx, &r); err != nil {
		return r, err
	}
	all := len(d.c.Nodes())
	whole := func(ctx context.Context) error {
		_, err := d.awaitHops(ctx, all)
		return err
	}
	if err := d.failures(ctx, &r, whole, func(ctx context.Context) error {
		_, err := d.awaitHops(ctx, all-1)
		return err
	}); err != nil {
		return r, err
	}
	return r, d.restart(ctx, &r, whole)
}

// reach opens flows from both clients, and counts at which node they come in.
func (d *Demo) reach(ctx context.Context, r *result) error {
	target := netip.AddrPortFrom(d.vip, system.Port)
	near, err := measure.RunFlows(ctx, d.c.Box(cluster.Client), d.self, measure.FlowsOpts{Target: target, Count: 20})
	if err != nil {
		return fmt.Errorf("flows from the client: %w", err)
	}
	var counters []*measure.Entry
	for _, node := range d.c.Nodes() {
		e, err := measure.StartEntry(ctx, d.c.Box(node), d.self, measure.EntryOpts{Target: target, Proto: "tcp"})
		if err != nil {
			return err
		}
		counters = append(counters, e)
	}
	far, err := measure.RunFlows(ctx, d.c.Box(cluster.Remote), d.self, measure.FlowsOpts{Target: target, Count: flows})
	if err != nil {
		return fmt.Errorf("flows from the remote client: %w", err)
	}
	counts := map[string]int{}
	for i, node := range d.c.Nodes() {
		e, err := counters[i].Stop()
		if err != nil {
			return err
		}
		counts[node] = e.TCP
	}
	r.entry = measure.Spread(counts, flows)
	r.spread = far.Nodes
	r.everyPod = len(far.Nodes) == len(d.hosts)
	r.reachable = near.Failed == 0 && far.Failed == 0
	r.reached = fmt.Sprintf("client %d of %d, remote %d of %d flows", near.Served, near.Flows, far.Served, far.Flows)
	d.say("  %d flows came in at %s", flows, shares(r.entry))
	return nil
}

// failures cuts the link of the victim, mends it, takes the node out of service and
// takes it back, under a probe from the remote client. whole waits until the announcement
// is as it was, without until the node has no part in it.
func (d *Demo) failures(ctx context.Context, r *result, whole, without func(context.Context) error) error {
	node := d.victim
	p, err := measure.StartProbe(ctx, d.c.Box(cluster.Remote), d.self, measure.ProbeOpts{Target: netip.AddrPortFrom(d.vip, system.Port)})
	if err != nil {
		return err
	}
	steps := []struct {
		mark string
		do   func() error
	}{
		{"cut", func() error { return errors.Join(d.c.Cut(node), without(ctx)) }},
		{"mended", func() error { return errors.Join(d.c.Restore(node), whole(ctx)) }},
		{"drain", func() error { return errors.Join(d.exclude(ctx, node, "=true"), without(ctx)) }},
		{"back", func() error { return errors.Join(d.exclude(ctx, node, "-"), whole(ctx)) }},
		{"end", func() error { return nil }},
	}
	for _, step := range steps {
		if err := p.AwaitAnswers(ctx, steady); err != nil {
			return fmt.Errorf("before %s: %w", step.mark, err)
		}
		if err := p.Mark(step.mark); err != nil {
			return err
		}
		d.say("  %s: %s", node, step.mark)
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.mark, err)
		}
	}
	report, err := p.Stop()
	if err != nil {
		return err
	}
	for mark, to := range map[string]*outage{"cut": &r.cut, "drain": &r.drain} {
		if *to, err = after(report, mark); err != nil {
			return err
		}
	}
	mended, err := after(report, "mended")
	if err != nil {
		return err
	}
	if r.back, err = after(report, "back"); err != nil {
		return err
	}
	if mended.length > r.back.length {
		r.back.length = mended.length
	}
	r.back.lost += mended.lost
	d.say("  cut %s, drain %s, return %s", r.cut, r.drain, r.back)
	return nil
}

// exclude sets (=true) or removes (-) the label by which a node has no part in load
// balancing.
func (d *Demo) exclude(ctx context.Context, node, how string) error {
	_, err := d.c.Kubectl(ctx, "label", "node", node, "node.kubernetes.io/exclude-from-external-load-balancers"+how)
	return err
}

// restart replaces the speaker of the victim as an upgrade does, under open connections
// of the remote client.
func (d *Demo) restart(ctx context.Context, r *result, whole func(context.Context) error) error {
	h, err := measure.StartHold(ctx, d.c.Box(cluster.Remote), d.self, measure.HoldOpts{
		Target: netip.AddrPortFrom(d.vip, system.HoldPort), Conns: held,
	})
	if err != nil {
		return err
	}
	d.say("  %s: its speaker is restarted under %d open connections", d.victim, held)
	err = errors.Join(d.sys.UpgradeSpeaker(ctx, d.victim, 0), whole(ctx))
	var herr error
	r.restart, herr = h.Stop()
	d.say("  %s", broken(r.restart))
	return errors.Join(err, herr)
}

// broken says how many connections broke.
func broken(r measure.HoldReport) string {
	return fmt.Sprintf("%d of %d connections broken", r.Broken, r.Opened)
}

// steady is how many probes in a row must be answered before the next step: a turn
// through the source ports, so that every flow was seen to work.
const steady = 400

func after(report measure.ProbeReport, mark string) (outage, error) {
	m, err := report.After(mark)
	if err != nil {
		return outage{}, err
	}
	return outage{m.LongestDisturbance.Duration(), m.Lost, m.OpenEnd}, nil
}

// String returns the length and the number of lost probes.
func (o outage) String() string {
	switch {
	case o.lost == 0:
		return "no probe lost"
	case o.openEnd:
		return fmt.Sprintf("over %s, not ended", o.length.Round(time.Millisecond))
	}
	return fmt.Sprintf("%s, %d lost", o.length.Round(time.Millisecond), o.lost)
}

// within reports whether the outage ended and was no longer than limit.
func (o outage) within(limit time.Duration) bool { return !o.openEnd && o.length <= limit }

func shares(list []measure.Share) string {
	var s []string
	for _, x := range list {
		s = append(s, fmt.Sprintf("%s %.0f %%", x.Name, x.Percent))
	}
	return strings.Join(s, ", ")
}
