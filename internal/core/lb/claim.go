package lb

import (
	"net/netip"
	"slices"
)

// Holder is one Service that an address is given to, and what decides whether
// others may share it.
type Holder struct {
	Key        Key
	UID        string
	SharingKey string
	Backend    string
	Ports      []Port // sorted
	// Released says that the address is being taken from the Service.
	Released bool
}

// HolderOf returns svc as the holder of an address.
func HolderOf(svc *Service) Holder {
	return Holder{Key: svc.Key, UID: svc.UID, SharingKey: svc.SharingKey, Backend: svc.Backend, Ports: svc.Ports}
}

// Equal reports whether h and o say the same.
func (h Holder) Equal(o Holder) bool {
	return h.Key == o.Key && h.UID == o.UID && h.SharesAs(o) && h.Released == o.Released
}

// SharesAs reports whether h leaves the same to others as o.
func (h Holder) SharesAs(o Holder) bool {
	return h.SharingKey == o.SharingKey && h.Backend == o.Backend && slices.Equal(h.Ports, o.Ports)
}

// WireConflict says that somebody outside the cluster answers for an address.
type WireConflict struct {
	Addr netip.Addr
	MAC  string // lower case with colons
	Node string // whose speaker heard it
	Link string // of that node, on which it was heard
}
