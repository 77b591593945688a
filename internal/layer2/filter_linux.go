package layer2

import (
	"golang.org/x/net/bpf"

	"github.com/barelb/barelb/internal/packet"
)

// arpRequests accepts ARP requests (RFC 826).
func arpRequests() []bpf.Instruction { return packet.AllOf(packet.At(20, 2, 1)) }

// solicitations accepts Neighbor Solicitations (RFC 4861 §4.3). It sees every IPv6
// packet that the host receives, so what tells most apart comes first.
func solicitations() []bpf.Instruction {
	return packet.AllOf(
		packet.At(20, 1, 58),  // next header: ICMPv6
		packet.At(54, 1, 135), // type
		packet.At(21, 1, 255), // hop limit
	)
}
