package layer2_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/core/arp"
	"github.com/barelb/barelb/internal/core/ndp"
	"github.com/barelb/barelb/internal/packet"
)

// stationEnv marks a process that sends frames, and hears all of ARP and Neighbor
// Discovery that reaches a namespace, with the kernel's time of arrival.
const stationEnv = "BARELB_TEST_STATION"

// order is one line to a station: what it is to do, in this order.
type order struct {
	Send [][]byte // frames
	// Ask, Count and Every ask for addresses in turn, and measure.
	Ask   []netip.Addr
	Count int
	Every time.Duration
	Link  string // to send and to ask on
}

// news is its answer: what it has heard since the last, and how long each answer to Ask
// took from before the request was handed to the kernel to when the kernel had the
// answer. Answers that did not come within a second are missing. Late is by how much the
// station itself was woken too late for each request: the host's own stalls.
type news struct {
	Heard      []frame
	Took, Late []time.Duration
}

type frame struct {
	Bytes []byte
	Link  string
	At    time.Time
}

type stationState struct {
	out   *packet.Conn
	names map[int]string

	mu    sync.Mutex
	heard []frame
	asked map[netip.Addr]time.Time
	took  []time.Duration
	late  []time.Duration
}

func beStation(in io.Reader, out io.Writer) error {
	s := &stationState{names: map[int]string{}, asked: map[netip.Addr]time.Time{}}
	devs, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, d := range devs {
		s.names[d.Index] = d.Name
	}
	if s.out, err = packet.OpenSender(); err != nil {
		return err
	}
	four, err := packet.OpenStamped(unix.ETH_P_ARP, packet.AllOf())
	if err != nil {
		return err
	}
	six, err := packet.OpenStamped(unix.ETH_P_IPV6, packet.AllOf(packet.At(20, 1, 58), packet.At(54, 1, 136)))
	if err != nil {
		return err
	}
	go s.listen(four)
	go s.listen(six)
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return err
		}
		n, err := s.obey(o)
		if err != nil {
			return err
		}
		if err := json.NewEncoder(out).Encode(n); err != nil {
			return err
		}
	}
	return nil
}

func (s *stationState) listen(conn *packet.Conn) {
	b := make([]byte, packet.MaxFrame)
	for {
		n, link, at, err := conn.ReadStamped(b)
		if err != nil {
			continue
		}
		s.mu.Lock()
		if sent, ok := s.asked[answerFor(b[:n])]; ok {
			delete(s.asked, answerFor(b[:n]))
			s.took = append(s.took, at.Sub(sent))
		} else {
			s.heard = append(s.heard, frame{append([]byte{}, b[:n]...), s.names[link], at})
		}
		s.mu.Unlock()
	}
}

// answerFor returns the address that a frame is an answer for, if it is one.
func answerFor(b []byte) netip.Addr {
	if p, err := arp.Parse(b); err == nil && p.Op == arp.Reply {
		return p.SenderAddr
	}
	if a, err := ndp.ParseAdvertisement(b); err == nil && a.Solicited {
		return a.Target
	}
	return netip.Addr{}
}

func (s *stationState) obey(o order) (news, error) {
	if len(o.Send) > 0 || o.Count > 0 {
		dev, err := net.InterfaceByName(o.Link)
		if err != nil {
			return news{}, err
		}
		for _, f := range o.Send {
			if err := s.out.Send(f, dev.Index); err != nil {
				return news{}, err
			}
		}
		if err := s.ask(o, dev); err != nil {
			return news{}, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := news{s.heard, s.took, s.late}
	s.heard, s.took, s.late = nil, nil, nil
	return n, nil
}

func (s *stationState) ask(o order, dev *net.Interface) error {
	mac := arp.MAC(dev.HardwareAddr)
	next := time.Now()
	for i := range o.Count {
		addr := o.Ask[i%len(o.Ask)]
		var f []byte
		if addr.Is4() {
			f = arp.Packet{Dst: arp.Broadcast(), Src: mac, Op: arp.Request, SenderMAC: mac, SenderAddr: netip.MustParseAddr("192.0.2.9"), TargetAddr: addr}.Append(nil)
		} else {
			f = ndp.Solicit(addr, mac, netip.MustParseAddr("2001:db8::9")).Append(nil)
		}
		if pause := time.Until(next); pause > 0 {
			ts := unix.NsecToTimespec(pause.Nanoseconds()) // time.Sleep rounds up to 1 ms
			_ = unix.Nanosleep(&ts, nil)
			s.late = append(s.late, time.Since(next))
		}
		next = next.Add(o.Every)
		s.mu.Lock()
		s.asked[addr] = time.Now().Round(0)
		s.mu.Unlock()
		if err := s.out.Send(f, dev.Index); err != nil {
			return err
		}
	}
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		s.mu.Lock()
		left := len(s.asked)
		s.mu.Unlock()
		if left == 0 {
			break
		}
	}
	return nil
}

// station starts a station in a namespace; what it has heard before is of no interest.
func (l *lab) station(ns string) *child { l.Helper(); return l.start(ns, stationEnv+"=1") }

// hears returns what a station has heard since it was last asked.
func (l *lab) hears(c *child, o order) news {
	l.Helper()
	var n news
	l.tell(c, o, &n)
	return n
}

// about says of a frame what the tests look at.
func (f frame) about() string {
	mac := func(b []byte) string { return net.HardwareAddr(b).String() }
	if p, err := arp.Parse(f.Bytes); err == nil {
		return fmt.Sprintf("%s > %s: ARP %d %s is at %s", mac(p.Src[:]), mac(p.Dst[:]), p.Op, p.SenderAddr, mac(p.SenderMAC[:]))
	}
	if a, err := ndp.ParseAdvertisement(f.Bytes); err == nil {
		return fmt.Sprintf("%s > %s: NA %s is at %s, S=%t O=%t to %s", mac(a.Src[:]), mac(a.Dst[:]), a.Target, mac(a.TargetLinkAddr[:]), a.Solicited, a.Override, a.DstIP)
	}
	return fmt.Sprintf("%x", f.Bytes[:min(len(f.Bytes), 60)])
}
