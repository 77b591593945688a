package kube

import (
	"net/netip"
	"slices"

	"github.com/barelb/barelb/api/barelb/v1alpha1"
	"github.com/barelb/barelb/internal/core/lb"
)

// convertClaim returns the address of a claim and who holds it. The address is not
// valid if nobody can tell what the claim is about.
func convertClaim(o *v1alpha1.AddressClaim) (netip.Addr, []lb.Holder) {
	addr, err := netip.ParseAddr(o.Spec.Address)
	if err != nil || o.Name != v1alpha1.ObjectName(addr) {
		return netip.Addr{}, nil
	}
	holders := make([]lb.Holder, len(o.Spec.Holders))
	for i := range o.Spec.Holders {
		holders[i] = convertHolder(&o.Spec.Holders[i])
	}
	return addr.Unmap(), holders
}

func convertHolder(o *v1alpha1.AddressHolder) lb.Holder {
	h := lb.Holder{
		Key: lb.Key{Namespace: o.Namespace, Name: o.Name}, UID: o.UID,
		SharingKey: o.SharingKey, Backend: o.Backend, Released: o.Released,
	}
	for _, p := range o.Ports {
		h.Ports = append(h.Ports, lb.Port{Protocol: p.Protocol, Number: uint16(p.Port)})
	}
	slices.SortFunc(h.Ports, lb.Port.Compare)
	return h
}

func holderObject(h lb.Holder) v1alpha1.AddressHolder {
	o := v1alpha1.AddressHolder{
		UID: h.UID, Namespace: h.Key.Namespace, Name: h.Key.Name, SharingKey: h.SharingKey, Backend: h.Backend, Released: h.Released,
	}
	for _, p := range h.Ports {
		o.Ports = append(o.Ports, v1alpha1.HolderPort{Protocol: p.Protocol, Port: int32(p.Number)})
	}
	return o
}

// convertConflict returns what a speaker heard; its address is not valid if nobody
// can tell what it is about.
func convertConflict(o *v1alpha1.AddressConflict) lb.WireConflict {
	addr, err := netip.ParseAddr(o.Spec.Address)
	if err != nil || o.Name != v1alpha1.ObjectName(addr) {
		return lb.WireConflict{}
	}
	return lb.WireConflict{Addr: addr.Unmap(), MAC: o.Spec.MAC, Node: o.Spec.Node, Link: o.Spec.Interface}
}

func (f *Feed) onClaim(obj any, gone bool) { //nolint:revive // two kinds of event
	o, ok := obj.(*v1alpha1.AddressClaim)
	if !ok {
		return
	}
	addr, _ := convertClaim(o)
	if !addr.IsValid() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	have := f.claims[addr]
	switch {
	case gone && have != nil && have.UID != o.UID: // its successor is known already
		return
	case gone:
		delete(f.claims, addr)
	case have != nil && have.UID == o.UID && version(o) < version(have): // it was read directly since
		return
	default:
		f.claims[addr] = o
	}
	f.claimDirty[addr] = true
	f.signal()
}

func (f *Feed) onConflict(obj any, gone bool) { //nolint:revive // two kinds of event
	o, ok := obj.(*v1alpha1.AddressConflict)
	if !ok {
		return
	}
	c := convertConflict(o)
	if !c.Addr.IsValid() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if gone {
		delete(f.conflicts, c.Addr)
	} else if f.conflicts[c.Addr] == c {
		return
	} else {
		f.conflicts[c.Addr] = c
	}
	f.conflictsDirty = true
	f.signal()
}
