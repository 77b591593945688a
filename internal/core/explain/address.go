package explain

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/lb"
)

// AddressReport says what is known of one address.
type AddressReport struct {
	Address  netip.Addr       `json:"address"`
	Pool     string           `json:"pool,omitempty"`
	Findings []Finding        `json:"findings"`
	Services []*ServiceReport `json:"services,omitempty"` // those that have it
	First    *Finding         `json:"firstBrokenLink,omitempty"`
}

// Address explains one address: whose it is, and for each Service that has it the chain.
func (w *World) Address(a netip.Addr) *AddressReport {
	a = a.Unmap()
	r := &AddressReport{Address: a, Pool: w.cfg.PoolOf(a)}
	const check = "address"
	if r.Pool == "" {
		r.Findings = append(r.Findings, Finding{Level: Info, Check: check, What: fmt.Sprintf("%s is in no IPAddressPool in force", a), Evidence: w.poolLines()})
	} else {
		r.Findings = append(r.Findings, ok(check, "%s is in IPAddressPool %s", a, r.Pool))
	}
	if n := lb.NodeWith(a, w.nodes); n != "" && r.Pool == "" {
		r.Findings = append(r.Findings, Finding{Level: Info, Check: check, What: fmt.Sprintf("it is an address of node %s itself", n)})
	} else if n != "" {
		r.Findings = append(r.Findings, broken(check, AddressOfNode, "%s is an address of node %s itself", a, n).remedy("take it out of the IPAddressPool"))
	}
	for _, x := range w.c.Conflicts {
		if x.Addr == a {
			r.Findings = append(r.Findings, warning(check, lb.AddressInUseOnWire, "%s, outside of the cluster, answers for it", x.MAC).
				with(fmt.Sprintf("heard by the speaker of %s on %s", x.Node, x.Link)).
				remedy("find the host with that MAC; while it answers, the address is given to no Service"))
		}
	}
	for _, h := range w.c.Claims[a] {
		svc := w.services[h.Key]
		switch {
		case svc == nil || svc.UID != h.UID:
			r.Findings = append(r.Findings, warning(check, lb.AddressInUse, "it is claimed for Service %s, which is gone", h.Key).
				remedy("the controller removes the claim when it runs"))
		case h.Released:
			r.Findings = append(r.Findings, Finding{Level: Info, Check: check, What: fmt.Sprintf("it is being taken from Service %s", h.Key)})
		}
	}
	holders := w.holders[a]
	if len(holders) == 0 {
		r.Findings = append(r.Findings, w.foreign(a))
	}
	for _, key := range holders {
		r.Services = append(r.Services, w.Service(key))
	}
	if r.First = first(r.Findings, Broken); r.First == nil {
		for _, s := range r.Services {
			if s.First != nil {
				r.First = s.First
				break
			}
		}
	}
	return r
}

// foreign says whose an address is that no Service of ours has.
func (w *World) foreign(a netip.Addr) Finding {
	const check = "address"
	for _, o := range w.c.Others {
		if slices.Contains(o.Addrs, a) {
			return warning(check, OtherClass, "Service %s, which is not BareLB's to serve, has it", o.Key).remedy("two load balancers must not give addresses of one range")
		}
		if slices.Contains(o.ClusterIPs, a) {
			return Finding{Level: Info, Check: check, What: fmt.Sprintf("it is the cluster IP of Service %s, which only Pods and nodes reach", o.Key)}
		}
	}
	for _, key := range w.keys {
		if slices.Contains(w.services[key].ClusterIPs, a) {
			return Finding{Level: Info, Check: check, What: fmt.Sprintf("it is the cluster IP of Service %s, which only Pods and nodes reach", key)}
		}
	}
	return Finding{Level: Info, Check: check, What: "no Service of ours has it"}
}
