package lb

// Reason says why something is not allocated or not announced, or that it is. The
// same word stands in events, status, metric labels and logs.
type Reason string

// Reasons of allocation.
const (
	Allocated          Reason = "Allocated"
	PoolExhausted      Reason = "PoolExhausted"      // every address that may be used is taken
	NoPool             Reason = "NoPool"             // no pool may be used for this Service
	PoolNotFound       Reason = "PoolNotFound"       // the requested pool does not exist
	PoolNotAllowed     Reason = "PoolNotAllowed"     // the pool's serviceAllocation excludes the Service
	AddressNotInPool   Reason = "AddressNotInPool"   // the requested address is in no pool
	AddressInUse       Reason = "AddressInUse"       // another Service holds it and does not share
	AddressInUseOnWire Reason = "AddressInUseOnWire" // somebody outside the cluster answers for it
	SharingKeyDiffers  Reason = "SharingKeyDiffers"  // it is shared under another key
	PortConflict       Reason = "PortConflict"       // a sharer already uses the port
	BackendDiffers     Reason = "BackendDiffers"     // Local sharers have other endpoints
	FamilyMismatch     Reason = "FamilyMismatch"     // the address families do not fit the Service
	InvalidRequest     Reason = "InvalidRequest"     // the request contradicts itself
	NoClusterIP        Reason = "NoClusterIP"        // the Service has no cluster IP
)

// Reasons of announcement.
const (
	Announced                   Reason = "Announced"
	NotOwner                    Reason = "NotOwner"                    // another node answers for it
	NoAddress                   Reason = "NoAddress"                   // nothing is allocated yet
	AddressUnknown              Reason = "AddressUnknown"              // its address belongs to no pool
	NoMatchingAdvertisement     Reason = "NoMatchingAdvertisement"     // no advertisement covers pool, node and Service
	ConflictingAdvertisements   Reason = "ConflictingAdvertisements"   // they give one prefix two local preferences
	SharedIPWithServiceSelector Reason = "SharedIPWithServiceSelector" // allow-shared-ip and serviceSelectors exclude each other
	NoEndpoint                  Reason = "NoEndpoint"                  // nothing serves
	NoLocalEndpoint             Reason = "NoLocalEndpoint"             // nothing serves on this node (externalTrafficPolicy Local)
	NodeNetworkUnavailable      Reason = "NodeNetworkUnavailable"
	NodeExcluded                Reason = "NodeExcluded"         // exclude-from-external-load-balancers
	NodeLeaving                 Reason = "NodeLeaving"          // it is drained, or shuts down
	NodeUnfit                   Reason = "NodeUnfit"            // others have a link, a prefix or a condition that it lacks
	ProxyUnhealthy              Reason = "ProxyUnhealthy"       // its kube-proxy does not keep up the rules, and others can serve
	Caretaker                   Reason = "Caretaker"            // it answers for the owner, whose speaker is down
	NoPeer                      Reason = "NoPeer"               // no BGPPeer takes it on this node
	AddressClaimedOnWire        Reason = "AddressClaimedOnWire" // a host outside the cluster says that it has it
	NotAnnounced                Reason = "NotAnnounced"         // no node announces it, whatever the reason of each
)

// Reasons why an object is set aside.
const (
	InvalidField     Reason = "InvalidField"     // a field cannot be understood
	UnknownReference Reason = "UnknownReference" // it names an object that is not there
	Overlap          Reason = "Overlap"          // it claims addresses of an older pool
	Conflict         Reason = "Conflict"         // it contradicts another object
	NotSupported     Reason = "NotSupported"     // understood, but without effect in this version
	InvalidReference Reason = "InvalidReference" // it names an object that is there, and unfit
	PasswordUnknown  Reason = "PasswordUnknown"  // it is at the API server, which cannot be reached
)

// Reasons of conditions of configuration objects about which nothing is wrong.
const (
	Accepted     Reason = "Accepted"     // it is in force as written
	ResolvedRefs Reason = "ResolvedRefs" // all that it refers to is there
	InUse        Reason = "InUse"        // something makes use of it
	NotInUse     Reason = "NotInUse"     // nothing does
)
