package kube

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/barelb/v1alpha1"
	"github.com/barelb/barelb/internal/core/ipam"
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

func (f *Feed) onClaim(obj any, gone bool) {
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

// noClaim is told that there is no claim to addr: one that was read directly may have
// gone without the watch telling of it.
func (f *Feed) noClaim(addr netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.claims[addr] != nil {
		delete(f.claims, addr)
		f.claimDirty[addr] = true
		f.signal()
	}
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

// errNotYet says that something must happen first that will.
var errNotYet = errors.New("kube: not yet")

// takenError says that an address is claimed for another Service.
type takenError struct {
	addr netip.Addr
	by   lb.Key
}

func (e *takenError) Error() string {
	return fmt.Sprintf("claim %s: it is claimed for %s", e.addr, e.by)
}

// getClaim reads the claim to addr; nil if there is none.
func (w *Writer) getClaim(ctx context.Context, from client.Reader, addr netip.Addr) (*v1alpha1.AddressClaim, error) {
	o := &v1alpha1.AddressClaim{}
	err := from.Get(ctx, client.ObjectKey{Namespace: w.c.opts.Namespace, Name: v1alpha1.ObjectName(addr)}, o)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil //nolint:nilnil // none is no error
	case err != nil:
		return nil, fmt.Errorf("read claim to %s: %w", addr, err)
	}
	if of, _ := convertClaim(o); of != addr {
		return nil, fmt.Errorf("read claim to %s: AddressClaim %s is about %q: delete it", addr, o.Name, o.Spec.Address)
	}
	return o, nil
}

// stale reports whether an error says that a claim is not what we took it for.
func stale(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)
}

// editClaim lets edit change the claim to addr, until what it was changed from is
// what is there. It looks first at from. edit gets the holders and returns those
// that there shall be; nobody means that the claim goes.
func (w *Writer) editClaim(ctx context.Context, from client.Reader, addr netip.Addr, edit func([]lb.Holder) ([]lb.Holder, error)) error {
	var err error
	for range 1 + conflictTries {
		var o *v1alpha1.AddressClaim
		if o, err = w.getClaim(ctx, from, addr); err != nil {
			return err
		}
		if err = w.tryClaim(ctx, o, addr, edit); !stale(err) {
			return err
		}
		from = w.c.client
	}
	return err
}

// tryClaim lets edit change the claim o; nil if there is none.
func (w *Writer) tryClaim(ctx context.Context, o *v1alpha1.AddressClaim, addr netip.Addr, edit func([]lb.Holder) ([]lb.Holder, error)) error {
	var have []lb.Holder
	if o != nil {
		_, have = convertClaim(o)
	}
	want, err := edit(have)
	if err != nil {
		var taken *takenError
		if errors.As(err, &taken) && o != nil {
			w.feed.onClaim(o, false)
		}
		return err
	}
	if slices.EqualFunc(have, want, lb.Holder.Equal) {
		if o == nil {
			w.feed.noClaim(addr)
		}
		return nil
	}
	if len(want) == 0 {
		err := w.c.client.Delete(ctx, o, client.Preconditions{UID: &o.UID, ResourceVersion: &o.ResourceVersion})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete claim to %s: %w", addr, err)
		}
		return nil
	}
	made := &v1alpha1.AddressClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.c.opts.Namespace, Name: v1alpha1.ObjectName(addr)},
		Spec:       v1alpha1.AddressClaimSpec{Address: addr.String()},
	}
	for _, h := range want {
		made.Spec.Holders = append(made.Spec.Holders, holderObject(h))
	}
	if o == nil {
		err = w.c.client.Create(ctx, made)
	} else {
		o.Spec.Holders = made.Spec.Holders
		err = w.c.client.Update(ctx, o)
	}
	if err != nil {
		return fmt.Errorf("claim %s: %w", addr, err)
	}
	return nil
}

// claim makes h a holder of addr. It fails with a takenError if another holds it
// who does not share it.
func (w *Writer) claim(ctx context.Context, addr netip.Addr, h lb.Holder, from client.Reader) error {
	return w.editClaim(ctx, from, addr, func(have []lb.Holder) ([]lb.Holder, error) {
		if i := slices.IndexFunc(have, func(o lb.Holder) bool { return o.UID == h.UID }); i >= 0 && have[i].Equal(h) {
			return have, nil
		}
		// One of the same name and another UID is gone: h's Service has its place.
		others := slices.DeleteFunc(slices.Clone(have), func(o lb.Holder) bool { return o.UID == h.UID || o.Key == h.Key })
		for _, o := range others {
			if ipam.Clash(addr, o, h) != nil {
				return nil, &takenError{addr, o.Key}
			}
		}
		return append(others, h), nil
	})
}

// markReleased marks a claim of a Service that is there.
func (w *Writer) markReleased(ctx context.Context, r claimOf) error {
	return w.editClaim(ctx, w.c.client, r.addr, func(have []lb.Holder) ([]lb.Holder, error) {
		marked := slices.Clone(have)
		for i := range marked {
			marked[i].Released = marked[i].Released || marked[i].UID == r.uid
		}
		return marked, nil
	})
}

// dropClaim removes a claim. That of a Service that is there must be marked: if it
// is not any more, somebody gives the address while we take it.
func (w *Writer) dropClaim(ctx context.Context, r claimOf, marked bool) error {
	return w.editClaim(ctx, w.c.client, r.addr, func(have []lb.Holder) ([]lb.Holder, error) {
		i := slices.IndexFunc(have, func(o lb.Holder) bool { return o.UID == r.uid })
		switch {
		case i < 0:
			return have, nil
		case marked && !have[i].Released:
			return nil, errNotYet
		}
		return slices.Delete(slices.Clone(have), i, i+1), nil
	})
}
