package v1beta1

// Labels on the objects that BareLB writes.
const (
	// LabelNode, on a ServiceL2Status, ServiceBGPStatus or BGPSessionStatus, names the
	// node whose speaker wrote it.
	LabelNode = "metallb.io/node"
	// LabelPeer, on a BGPSessionStatus, names the BGPPeer.
	LabelPeer = "metallb.io/peer"
	// LabelServiceName and LabelServiceNamespace, on the same, name the Service.
	LabelServiceName      = "metallb.io/service-name"
	LabelServiceNamespace = "metallb.io/service-namespace"

	// LabelComponentType, on a ConfigurationState, is ComponentController or
	// ComponentSpeaker.
	LabelComponentType = "metallb.io/component-type"
	// LabelNodeName, on a speaker's ConfigurationState, names its node.
	LabelNodeName = "metallb.io/node-name"
)

// The values of LabelComponentType.
const (
	ComponentController = "controller"
	ComponentSpeaker    = "speaker"
)

// Conditions that BareLB keeps on the objects that users write.
const (
	// ConditionAccepted, status True: the object is in force. False: it is set aside, or
	// a part of it, and the reason and message say why, and whether its last good version
	// stays in force; other objects are not affected.
	ConditionAccepted = "Accepted"
	// ConditionResolvedRefs, status False: an object that it refers to is not there, or
	// does not fit.
	ConditionResolvedRefs = "ResolvedRefs"
	// ConditionInUse, status True: something makes use of the object; the message says
	// what. False: nothing does.
	ConditionInUse = "InUse"
)

// Further conditions of an IPAddressPool. They are there once there was something to
// say.
const (
	// ConditionAddressesInUseOnWire, status True: hosts outside the cluster answer
	// for addresses of the pool, which are therefore not given. The message names
	// them.
	ConditionAddressesInUseOnWire = "AddressesInUseOnWire"
	// ConditionEditHeldBack, status True: Services hold addresses that the pool, as
	// it is written now, would not give them. With --pool-edits=guard they keep them,
	// and the message names them.
	ConditionEditHeldBack = "EditHeldBack"
)

// FinalizerInUse keeps an IPAddressPool that is deleted until no Service holds
// addresses of it any more. The controller sets it with --pool-edits=guard.
const FinalizerInUse = "barelb.io/in-use"

// AnnotationDrain is an annotation of a Node. With any value but "false" the node
// shall carry no traffic for Services any more: speakers move it to other nodes.
const AnnotationDrain = "barelb.io/drain"

// AnnotationIgnoreOnWire is an annotation of an IPAddressPool. It names addresses,
// separated by commas, that may be given although somebody on the wire answers for them; "all" names
// every one.
const AnnotationIgnoreOnWire = "barelb.io/ignore-addresses-in-use-on-wire"
