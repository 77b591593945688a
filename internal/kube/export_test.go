package kube

import "time"

// Connected is Connect with a connection that the test has made.
var Connected = connect

// Hurry makes a feed wait less: before it reads Secrets again, also while one is
// missing, and before it complains that there is no API server.
func (f *Feed) Hurry(refresh, awaited, patience time.Duration) {
	f.config.refresh, f.config.awaited, f.patience = refresh, awaited, patience
}

// Hurry makes a writer wait less before it writes.
func (w *AnnouncementWriter) Hurry(delay time.Duration) { w.delay, w.began = delay, time.Time{} }

// Hurry makes a writer wait less between rounds.
func (w *SessionWriter) Hurry(interval time.Duration) { w.interval = interval }

// Pending counts the wishes that have not come true.
func (w *Writer) Pending() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.want) + len(w.release)
}

// ConditionsOf returns where the conditions of a configuration object are.
var ConditionsOf = conditionsOf
