package packet

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// ReadStamped reads one frame into b, as Read does, and also says when the kernel
// received it: by the wall clock, without a monotonic reading. at is zero if the kernel
// did not say, as of a socket that [OpenStamped] did not open.
func (p *Conn) ReadStamped(b []byte) (n, link int, at time.Time, err error) {
	var oob [64]byte
	n, oobn, _, from, err := p.conn.Recvmsg(context.Background(), b, oob[:], 0)
	if err != nil {
		return 0, 0, time.Time{}, err
	}
	ll, ok := from.(*unix.SockaddrLinklayer)
	if !ok {
		return 0, 0, time.Time{}, fmt.Errorf("receive from %T: not a link-layer address", from)
	}
	return n, ll.Ifindex, stamp(oob[:oobn]), nil
}
