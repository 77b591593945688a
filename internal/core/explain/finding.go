package explain

import (
	"fmt"
	"slices"

	"github.com/barelb/barelb/internal/core/lb"
)

// Level says how bad a Finding is.
type Level string

// The levels, worst first.
const (
	Broken     Level = "broken"     // traffic does not arrive because of it
	Warning    Level = "warning"    // it works, or may; something should be done
	NotChecked Level = "notChecked" // it is not known, and the words say what is needed
	Info       Level = "info"       // worth knowing
	OK         Level = "ok"
)

// Finding is one thing that was looked at, and what was found.
type Finding struct {
	Level Level `json:"level"`
	// Check names what was looked at: a link of the chain, or a check of the surroundings.
	Check    string    `json:"check"`
	Reason   lb.Reason `json:"reason,omitempty"`
	What     string    `json:"what"`
	Evidence []string  `json:"evidence,omitempty"`
	Remedy   string    `json:"remedy,omitempty"`
}

// Reasons beyond those of the decisions: why something that is decided does not work.
const (
	NoSuchService        lb.Reason = "NoSuchService"
	NotLoadBalancer      lb.Reason = "NotLoadBalancer"      // its type is another
	OtherClass           lb.Reason = "OtherClass"           // its loadBalancerClass is not ours
	ControllerNotRunning lb.Reason = "ControllerNotRunning" // nobody allocates
	NotYetWritten        lb.Reason = "NotYetWritten"        // decided, but not in the Service's status
	SetAside             lb.Reason = "SetAside"             // an object has no effect
	SelectorsMatchNoNode lb.Reason = "SelectorsMatchNoNode"
	SpeakerNotRunning    lb.Reason = "SpeakerNotRunning"
	SpeakerSilent        lb.Reason = "SpeakerSilent"   // it does not report what it should announce
	ReportsDiffer        lb.Reason = "ReportsDiffer"   // another node than expected says that it announces
	TwoOwners            lb.Reason = "TwoOwners"       // two nodes say that they answer for one address
	NotHeardOf           lb.Reason = "NotHeardOf"      // the API server hears nothing of a node
	NoSession            lb.Reason = "NoSession"       // no BGP session that should carry it is up
	SessionDown          lb.Reason = "SessionDown"     // one of them is not
	BFDDown              lb.Reason = "BFDDown"         // none is up, and nor is BFD
	NodeDead             lb.Reason = "NodeDead"        // its kernel does not answer other nodes
	NotMember            lb.Reason = "NotMember"       // other speakers do not hear its speaker
	LinkMissing          lb.Reason = "LinkMissing"     // no link has the name that is given
	LinkDown             lb.Reason = "LinkDown"        // it has no carrier
	OutsideSubnets       lb.Reason = "OutsideSubnets"  // no node is in a subnet that contains it
	AddressOfNode        lb.Reason = "AddressOfNode"   // a node has it itself
	ProxyNotRunning      lb.Reason = "ProxyNotRunning" // kube-proxy
	NothingArrives       lb.Reason = "NothingArrives"  // nobody has asked for the address yet
	MissingRight         lb.Reason = "MissingRight"
)

func ok(check, format string, args ...any) Finding {
	return Finding{Level: OK, Check: check, What: fmt.Sprintf(format, args...)}
}

func broken(check string, reason lb.Reason, format string, args ...any) Finding {
	return Finding{Level: Broken, Check: check, Reason: reason, What: fmt.Sprintf(format, args...)}
}

func warning(check string, reason lb.Reason, format string, args ...any) Finding {
	return Finding{Level: Warning, Check: check, Reason: reason, What: fmt.Sprintf(format, args...)}
}

// unknown is the Finding about something that cannot be known because of g.
func unknown(check string, g *Gap) Finding {
	return Finding{Level: NotChecked, Check: check, What: g.NotChecked()}
}

func (f Finding) with(evidence ...string) Finding {
	f.Evidence = append(slices.Clip(f.Evidence), evidence...)
	return f
}

func (f Finding) remedy(format string, args ...any) Finding {
	f.Remedy = fmt.Sprintf(format, args...)
	return f
}

// first returns the first Finding of a level, or nil.
func first(all []Finding, level Level) *Finding {
	for i := range all {
		if all[i].Level == level {
			return &all[i]
		}
	}
	return nil
}

// severity orders levels: the worst is 0.
func severity(l Level) int {
	switch l {
	case Broken:
		return 0
	case Warning:
		return 1
	case NotChecked:
		return 2
	case Info:
		return 3
	case OK:
		return 4
	}
	return 5
}
