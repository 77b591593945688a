package packet_test

import (
	"testing"

	"golang.org/x/net/bpf"

	"github.com/barelb/barelb/internal/packet"
)

// A jump that leads elsewhere than to the end lets frames pass that nobody asked for.
func TestFailedConditionsRefuse(t *testing.T) {
	prog := packet.AllOf(packet.At(20, 2, 1), packet.NonZero(28, 4), packet.Match{Load: bpf.LoadAbsolute{Off: 54, Size: 1}, Min: 135, Max: 136})
	if last := prog[len(prog)-1]; last != (bpf.RetConstant{Val: 0}) {
		t.Fatalf("the end is %v", last)
	}
	jumps := 0
	for i, in := range prog {
		if j, ok := in.(bpf.JumpIf); ok {
			jumps++
			if to := i + 1 + int(j.SkipTrue); to != len(prog)-1 || j.SkipFalse != 0 {
				t.Errorf("instruction %d leads to %d, want %d", i, to, len(prog)-1)
			}
		}
	}
	if jumps != 6 { // one for each value, two for the range from 135, one for each extension
		t.Errorf("%d jumps in %v", jumps, prog)
	}
	if _, err := bpf.Assemble(prog); err != nil {
		t.Error(err)
	}
}
