package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/plan"
)

// ServiceReport is the chain from a Service to the network, link by link.
type ServiceReport struct {
	Service   string        `json:"service"`
	Addresses []netip.Addr  `json:"addresses,omitempty"`
	Pool      string        `json:"pool,omitempty"`
	Owner     string        `json:"owner,omitempty"`    // in Layer 2 mode
	NextHops  []string      `json:"nextHops,omitempty"` // by BGP
	Chain     []Finding     `json:"chain"`
	Nodes     []NodeVerdict `json:"nodes,omitempty"`
	Events    []string      `json:"events,omitempty"` // the last ones, oldest first
	// First is the first link that is broken, or nil.
	First *Finding `json:"firstBrokenLink,omitempty"`
	// Warned is the first link that works and that something should be done about, if
	// none is broken.
	Warned *Finding `json:"firstWarning,omitempty"`
	// Next is what to try where nothing is broken as far as it can be seen from here.
	Next []string `json:"next,omitempty"`
}

// NodeVerdict is what one node makes of a Service.
type NodeVerdict struct {
	Node       string    `json:"node"`
	Role       string    `json:"role"` // "owner", "next hop", both, or "" for out
	L2         lb.Reason `json:"layer2,omitempty"`
	L2Message  string    `json:"layer2Message,omitempty"`
	BGP        lb.Reason `json:"bgp,omitempty"`
	BGPMessage string    `json:"bgpMessage,omitempty"`
	Endpoints  int       `json:"readyEndpoints"`
	Reported   []string  `json:"reported,omitempty"` // protocols that its speaker says it announces by
}

// chain is a ServiceReport in the making.
type chain struct {
	*ServiceReport
	w   *World
	svc *plan.Service
	l2  []*config.L2Adv // for its pool and for it
	bgp []*config.BGPAdv
	// eligible is what each node makes of it if all speakers run, now with those that do.
	eligible, now map[string]*plan.Verdict
	ready         map[string]int // endpoints that can take traffic, by node
	anywhere      int
}

const mostEvents = 5

// Service explains one Service.
func (w *World) Service(key lb.Key) *ServiceReport {
	r := &ServiceReport{Service: key.String()}
	svc := w.services[key]
	if svc == nil {
		r.add(w.notOurs(key))
		w.finish(key, r)
		return r
	}
	c := &chain{ServiceReport: r, w: w, svc: svc, ready: map[string]int{}}
	r.Addresses, r.Pool = svc.Addrs, w.poolOf(svc)
	c.events()
	c.service()
	if !c.address() {
		w.finish(key, r)
		return r
	}
	c.eligible, c.now = w.verdicts(key, w.ideal), w.verdicts(key, w.planner)
	c.find()
	c.places()
	c.table()
	for _, step := range []func() bool{c.advertisements, c.endpoints, c.nodes, c.speakers} {
		if !step() {
			w.finish(key, r)
			return r
		}
	}
	c.reports()
	c.wire()
	c.sessions()
	c.dataPlane()
	w.finish(key, r)
	return r
}

func (r *ServiceReport) add(f Finding) { r.Chain = append(r.Chain, f) }

// finish finds the first broken link, or says what else there is to try.
func (w *World) finish(key lb.Key, r *ServiceReport) {
	if r.First = first(r.Chain, Broken); r.First != nil {
		return
	}
	if r.Warned = first(r.Chain, Warning); len(r.Addresses) == 0 {
		return
	}
	a := r.Addresses[0]
	if from := w.c.Sources[key]; len(from) > 0 {
		r.Next = append(r.Next, fmt.Sprintf("is the client in spec.loadBalancerSourceRanges of the Service (%s), with the address that nodes see? kube-proxy drops what others send", prefixes(from)))
	}
	if r.Owner != "" {
		tool := "arping -c 3 " + a.String()
		if a.Is6() {
			tool = "ndisc6 " + a.String() + " LINK"
		}
		r.Next = append(r.Next, fmt.Sprintf("on a host in the same Layer 2 network: %s (the answer must come from the MAC of %s)", tool, r.Owner))
	}
	if len(r.NextHops) > 0 {
		r.Next = append(r.Next, fmt.Sprintf("on the router: its routes to %s must have next hops %s", a, list(w.withAddrs(r.NextHops, a))))
	}
	r.Next = append(r.Next, "from a client: curl, not ping: an address of a Service answers on its ports alone",
		"asymmetric routing and firewalls between client and nodes cannot be seen from here: tcpdump on the node named above shows whether packets arrive")
}

// withAddrs names nodes with their addresses of the family of a.
func (w *World) withAddrs(nodes []string, a netip.Addr) []string {
	out := slices.Clone(nodes)
	for i, name := range out {
		if n := w.byName[name]; n != nil {
			if at := slices.IndexFunc(n.Addrs, func(x netip.Addr) bool { return x.BitLen() == a.BitLen() }); at >= 0 {
				out[i] += " (" + n.Addrs[at].String() + ")"
			}
		}
	}
	return out
}

// events lists the last Events on the Service.
func (c *chain) events() {
	for _, e := range c.w.c.Events {
		if e.Kind == "Service" && e.Key == c.svc.Key {
			c.Events = append(c.Events, eventLine(e, c.w.c))
		}
	}
	c.Events = c.Events[max(0, len(c.Events)-mostEvents):]
}

func eventLine(e Event, c *Cluster) string {
	kind := "Normal"
	if e.Warning {
		kind = "Warning"
	}
	age := ""
	if !e.Last.IsZero() && !c.Now.IsZero() {
		age = ", " + roundAge(c.Now.Sub(e.Last)) + " ago"
	}
	return fmt.Sprintf("%s %s: %s (%s%s)", kind, e.Reason, e.Message, cmp.Or(e.Component, "unknown"), age)
}

// notOurs says why a Service is none that BareLB serves.
func (w *World) notOurs(key lb.Key) Finding {
	for _, o := range w.c.Others {
		if o.Key != key {
			continue
		}
		if o.Type != "LoadBalancer" {
			return broken("service", NotLoadBalancer, "Service %s is of type %s: only those of type LoadBalancer get an address", key, o.Type).
				remedy("kubectl -n %s patch service %s -p '{\"spec\":{\"type\":\"LoadBalancer\"}}'", key.Namespace, key.Name)
		}
		served := "those without a loadBalancerClass"
		if w.c.Flags.Class != "" {
			served = "those of loadBalancerClass " + w.c.Flags.Class + " (--lb-class)"
		}
		class := "no loadBalancerClass"
		if o.Class != "" {
			class = "loadBalancerClass " + o.Class
		}
		f := broken("service", OtherClass, "Service %s has %s, and BareLB serves %s", key, class, served).
			remedy("loadBalancerClass cannot be changed: create the Service again, or start BareLB with --lb-class=%s", o.Class)
		if g := w.c.gap(FromPods); g != nil && w.c.Flags.Class == "" {
			f.Level, f.Remedy = NotChecked, "say by --lb-class which class BareLB serves"
			f.What = fmt.Sprintf("Service %s has %s, and whether BareLB serves it is %s", key, class, g.NotChecked())
		}
		return f
	}
	f := broken("service", NoSuchService, "there is no Service %s", key)
	var near []string
	for _, k := range w.keys {
		if k.Name == key.Name || k.Namespace == key.Namespace && strings.Contains(k.Name, key.Name) {
			near = append(near, k.String())
		}
	}
	if len(near) > 0 {
		f.Evidence = []string{"there is " + list(near)}
	}
	return f.remedy("name it NAMESPACE/NAME, or give its namespace by -n")
}

func (c *chain) service() {
	policy := "Cluster"
	if c.svc.TrafficLocal {
		policy = "Local"
	}
	ports := make([]string, len(c.svc.Ports))
	for i, p := range c.svc.Ports {
		ports[i] = fmt.Sprintf("%d/%s", p.Number, p.Protocol)
	}
	f := ok("service", "type LoadBalancer, externalTrafficPolicy %s, ports %s", policy, strings.Join(ports, ", "))
	if c.svc.SharingKey != "" {
		f.What += fmt.Sprintf(", shares addresses under %q", c.svc.SharingKey)
	}
	if from := c.w.c.Sources[c.svc.Key]; len(from) > 0 {
		f.What += ", for clients from " + prefixes(from) + " alone (spec.loadBalancerSourceRanges)"
	}
	c.add(f)
}

func prefixes(all []netip.Prefix) string {
	out := make([]string, len(all))
	for i, p := range all {
		out[i] = p.String()
	}
	return list(out)
}

// find finds the advertisements for it, and counts endpoints.
func (c *chain) find() {
	for _, a := range c.w.cfg.L2 {
		if a.Pools[c.Pool] && lb.MatchesAny(a.ServiceSelectors, c.svc.Labels) {
			c.l2 = append(c.l2, a)
		}
	}
	for _, a := range c.w.cfg.BGP {
		if a.Pools[c.Pool] && lb.MatchesAny(a.ServiceSelectors, c.svc.Labels) {
			c.bgp = append(c.bgp, a)
		}
	}
	for _, e := range c.svc.Endpoints {
		if e.Serving && c.w.c.gap(FromEndpoints) == nil {
			c.ready[e.Node]++
			c.anywhere++
		}
	}
}

// places finds from where it is announced.
func (c *chain) places() {
	if len(c.w.nodes) > 0 {
		c.Owner = c.now[c.w.judge()].Owner
	}
	for _, n := range c.w.nodes {
		v := c.now[n.Name]
		if v.BGP.Reason == lb.Announced && c.w.runs(n.Name) {
			c.NextHops = append(c.NextHops, n.Name)
		}
	}
}

// table says what each node makes of it.
func (c *chain) table() {
	said := c.w.announcing(c.svc.Key)
	for _, n := range c.w.nodes {
		e, v := c.eligible[n.Name], c.now[n.Name]
		row := NodeVerdict{Node: n.Name, Endpoints: c.ready[n.Name]}
		if len(c.l2) > 0 {
			row.L2, row.L2Message = v.L2.Reason, v.L2.Message
		}
		if len(c.bgp) > 0 {
			row.BGP, row.BGPMessage = v.BGP.Reason, v.BGP.Message
		}
		if !c.w.runs(n.Name) {
			down, reason := "its speaker does not run: "+cmp.Or(c.w.speakers[n.Name].Why, "there is no Pod of one on the node"), SpeakerNotRunning
			if c.w.silentFor(n.Name) != "" {
				down, reason = c.w.absent(n.Name)
			}
			if row.L2 != "" && (e.L2.Reason == lb.Announced || e.L2.Reason == lb.NotOwner) {
				row.L2, row.L2Message = reason, down
			}
			if row.BGP == lb.Announced {
				row.BGP, row.BGPMessage = reason, down
			}
		}
		var roles []string
		if n.Name == c.Owner {
			roles = append(roles, "owner")
		}
		if slices.Contains(c.NextHops, n.Name) {
			roles = append(roles, "next hop")
		}
		row.Role = strings.Join(roles, ", ")
		if slices.Contains(said.L2, n.Name) {
			row.Reported = append(row.Reported, "layer2")
		}
		if slices.Contains(said.BGP, n.Name) {
			row.Reported = append(row.Reported, "bgp")
		}
		c.Nodes = append(c.Nodes, row)
	}
}

// poolOf returns the name of the pool that a Service's addresses are from.
func (w *World) poolOf(svc *plan.Service) string {
	for _, a := range svc.Addrs {
		if in := w.cfg.PoolOf(a); in != "" {
			return in
		}
	}
	return svc.Pool
}
