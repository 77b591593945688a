package v1beta1

// Labels on the objects that BareLB writes.
const (
	// LabelNode, on a ServiceL2Status or ServiceBGPStatus, names the node whose
	// speaker wrote it.
	LabelNode = "metallb.io/node"
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

// ConditionAccepted is the type of the condition that BareLB keeps on the objects
// that users write. Status True: the object is in force. False: it is set aside,
// and the reason and message say why; other objects are not affected.
const ConditionAccepted = "Accepted"
