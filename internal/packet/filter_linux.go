package packet

import (
	"math"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Match is one condition of a filter: what is at an offset of the frame, or of an
// extension, lies between Min and Max.
type Match struct {
	Load     bpf.Instruction
	Min, Max uint32
}

// At matches a value of size bytes at an offset of the frame.
func At(offset, size int, value uint32) Match {
	return Match{bpf.LoadAbsolute{Off: uint32(offset), Size: size}, value, value}
}

// NonZero matches every value of size bytes at an offset but 0.
func NonZero(offset, size int) Match {
	return Match{bpf.LoadAbsolute{Off: uint32(offset), Size: size}, 1, math.MaxUint32}
}

// AllOf returns a filter that accepts frames of Ethernet links that meet all
// conditions and were sent to this host, to everybody or to a group: not what we send
// ourselves, and not what is meant for other stations, as which the kernel also marks
// frames of a VLAN that the host is not in.
func AllOf(conds ...Match) []bpf.Instruction {
	const (
		packetMulticast = 2 // after PACKET_HOST and PACKET_BROADCAST
		wholeFrame      = 1 << 16
	)
	conds = append(conds,
		Match{bpf.LoadExtension{Num: bpf.ExtLinkLayerType}, unix.ARPHRD_ETHER, unix.ARPHRD_ETHER},
		Match{bpf.LoadExtension{Num: bpf.ExtType}, 0, packetMulticast})
	var prog []bpf.Instruction
	for _, c := range conds {
		prog = append(prog, c.Load)
		if c.Min == c.Max {
			prog = append(prog, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: c.Min})
			continue
		}
		if c.Min > 0 {
			prog = append(prog, bpf.JumpIf{Cond: bpf.JumpLessThan, Val: c.Min})
		}
		if c.Max < math.MaxUint32 {
			prog = append(prog, bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: c.Max})
		}
	}
	// Every jump leads behind the instruction that accepts.
	for i, in := range prog {
		if j, ok := in.(bpf.JumpIf); ok {
			j.SkipTrue = uint8(len(prog) - i)
			prog[i] = j
		}
	}
	return append(prog, bpf.RetConstant{Val: wholeFrame}, bpf.RetConstant{Val: 0})
}
