package layer2

import (
	"golang.org/x/net/bpf"

	"github.com/barelb/barelb/internal/packet"
)

// arpPackets accepts ARP requests and replies (RFC 826).
func arpPackets() []bpf.Instruction {
	return packet.AllOf(packet.Match{Load: bpf.LoadAbsolute{Off: 20, Size: 2}, Min: 1, Max: 2})
}

// neighborMessages accepts Neighbor Solicitations and Advertisements (RFC 4861 §4.3, §4.4).
// It sees every IPv6 packet that the host receives, so what tells most apart comes first.
func neighborMessages() []bpf.Instruction {
	return packet.AllOf(
		packet.At(20, 1, 58), // next header: ICMPv6
		packet.Match{Load: bpf.LoadAbsolute{Off: 54, Size: 1}, Min: 135, Max: 136}, // type
		packet.At(21, 1, 255), // hop limit
	)
}
