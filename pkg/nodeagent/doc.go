// Package nodeagent is what a node does for the operator: it reports on the volumes that are mounted there, in the status of their
// SealedVolumes, and keeps their anchors.
//
//	mounter ──(its socket: which volumes, health)──────┐
//	mount servers ──(control sockets: usage, anchor)───┤
//	                                                 Agent ──► status of SealedVolumes, events about claims
//	node service ──(staging, staged, unstaging)────────┘
//
// Of the API it watches the SealedVolumes whose spec says that this node may use them, and nothing else. The mounter and the mount servers
// are on this machine and answer from memory: their health is looked at every few seconds. What goes to the API server is what has changed: at once for
// health, stage and unstage, else every half minute at most.
//
// # Anchors
//
// An anchor is published before the volume is told that it is kept (control's "anchor-confirm"). At stage the newest one is asked of the API server
// itself, and where that does not answer, or does not know the volume, nothing is mounted: the operator makes the SealedVolume before the volume is used. Before
// a volume is unmounted nobody writes to it any more; the anchor that is taken then is of all that it holds. If it can not be published,
// unmounting goes on, and it is tried again for as long as the agent lives.
//
// # What was made
//
// A volume is made once on its device (package csi). That it was begun, and that it was made, is
// written to the status of its SealedVolume, by Agent.KeepFormat before the stage goes on, and for
// volumes that are older than this by the next report.
//
// # Locks
//
// Agent.mu guards the map of volumes; a volume's own mutex is held while it is looked at and reported on, so that what is published never goes back.
package nodeagent
