package box

import (
	"fmt"
	"os"
)

// The names under which this program starts itself again. They are argument zero, so that a process list shows them.
const (
	argBox    = "barelb-lab-box"
	argReaper = "barelb-lab-reaper"
)

// hooked is set once Main ran: without it a box would run the caller's own main function again, which would open boxes.
var hooked bool //nolint:gochecknoglobals // a property of the process: whether its main function calls Main

// Main must be the first call in main and in TestMain of every program that opens boxes. It returns at once in an ordinary
// process; in a box's pid 1 and in the reaper it does their work and ends the process.
func Main() {
	hooked = true
	if len(os.Args) == 0 {
		return
	}
	var err error
	switch os.Args[0] {
	case argBox:
		err = runInit()
	case argReaper:
		err = runReaper()
	default:
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:forbidigo // this is the main function of a box or of the reaper
	}
	os.Exit(0) //nolint:forbidigo // this is the main function of a box or of the reaper
}
