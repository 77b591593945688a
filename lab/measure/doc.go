// Package measure holds the instruments by which everything in the lab is
// measured. Each is a subcommand of the lab's binary (see Commands) that runs
// inside one host, which is a network namespace, and prints JSON on stdout:
//
//	backend      the server behind the Services (package backend)
//	probe        a UDP echo every few milliseconds: losses and outages
//	flows        new TCP or UDP flows: which node and pod served each
//	entry        on a node: how many flows came in there
//	who-has      ARP request or Neighbor Solicitation: everybody who answers
//	ask          the same over and over, for many addresses: how long nobody answers
//	tcp-hold     connections that last: how many break, and when
//	watch-neigh  changes of neighbour entries
//	watch-route  changes of routes and their next hops
//	watch-bgp    on a router: the routes of UPDATEs as they come in
//
// and those that play a part instead:
//
//	forget-neigh deletes a neighbour entry over and over, so that the kernel asks
//	claim        announces an address that is somebody else's
//	answer-arp   answers ARP for somebody else
//
// flows, who-has and claim end by themselves and print one report. The others print
// JSON lines, each an object with "event":
//
//	ready    the instrument measures from now on
//	change   one observation (watch-neigh, watch-route, watch-bgp)
//	mark     answer to "mark NAME" on stdin: the action NAME may begin now
//	status   answer to "status" on stdin: figures so far (probe, ask, tcp-hold, entry)
//	report   the last line
//
// They end after --duration, on SIGINT or SIGTERM, or at the end of stdin (but
// not where stdin is /dev/null from the start), so that none outlives the
// program that started it. StartProbe, RunFlows and the like are the same in
// Go, for the demo and for tests.
//
// # Honesty
//
// All hosts share one machine, so wall clocks agree between instruments, and
// lengths are taken from the monotonic clock. Senders are open-loop: a late
// answer delays no further probe. A slot that the sender missed is counted, never
// made up for, and an outage says how much of it the prober itself slept through.
// Lengths are upper bounds (from the last success before to the first after);
// where a lower bound differs it stands beside. What is computed from what was
// seen is pure (AnalyseProbe, AnalyseHold, Spread) and apart from the sockets.
//
// who-has, ask and watch-bgp have code for frames and messages of their own and share none with the product, or one
// mistake could hide another.
package measure
