// Package box makes the hosts of a lab out of Linux namespaces.
//
// A box is a process with mount, pid, network, UTS and IPC namespaces of its own. Its pid 1 is this same program,
// started again under another name (see Main); it sets up private mounts, reaps orphans, and does nothing else.
// Whatever runs in a box dies with it, and its network devices and mounts vanish by the kernel's doing.
//
// Ownership. The process that called Open owns the boxes. When it ends, in whatever way, every box ends: the kernel
// sends each pid 1 SIGKILL (the parent-death signal), and each pid 1 also leaves when its control pipe closes.
// What the kernel does not clean up by itself (cgroups, the state directory, the one machine-wide sysctl that has to be
// raised) is the work of a third process, the reaper. It has a session of its own, ignores the terminal's signals, holds the lab's
// lock, and acts once the pipe from the owner closes. Should the machine take both at once, the next Open sweeps.
//
// Nothing is given a name that outlives the boxes: no named network namespace, no device in the machine's own network,
// no mount in the machine's mount namespace.
package box
