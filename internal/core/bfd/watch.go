package bfd

import "time"

// onTime is how late we may be woken and still believe that a packet would have been
// seen if there was one.
const onTime = 5 * time.Millisecond

// watch finds out that something that should come has not come.
//
// If we are woken late, the machine may have been too busy to receive what is waiting,
// so as much time again is granted: in all no more than the detection time.
type watch struct {
	heard   time.Time     // when the last one came
	granted time.Time     // until when to wait nevertheless
	spent   time.Duration // what has been granted since heard
}

func (w *watch) seen(at time.Time) {
	if at.After(w.heard) {
		w.heard = at
	}
	w.granted, w.spent = time.Time{}, 0
}

// deadline returns when to give up if nothing comes for a time.
func (w *watch) deadline(detect time.Duration) time.Time {
	at := w.heard.Add(detect)
	if w.granted.After(at) {
		return w.granted
	}
	return at
}

// expired reports whether to give up now.
func (w *watch) expired(now time.Time, detect time.Duration) bool {
	late := now.Sub(w.deadline(detect))
	if late < 0 {
		return false
	}
	if more := min(late, detect-w.spent); late > onTime && more > 0 {
		w.spent += more
		w.granted = now.Add(more)
		return false
	}
	return true
}
