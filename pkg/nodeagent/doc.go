// Package nodeagent does a node's work for the operator: it reports on the volumes that are mounted
// on the node, in the status of their SealedVolumes, and publishes their anchors.
//
//	mounter ──(its socket: which volumes, health)──────┐
//	mount servers ──(control sockets: usage, anchor)───┤
//	                                                 Agent ──► status of SealedVolumes, events about claims
//	node service ──(staging, staged, unstaging)────────┘
//
// In the API, the agent watches only the SealedVolumes whose spec allows this node to use them. The
// mounter and the mount servers are on the same machine and answer from memory, so the agent checks
// their health every few seconds. It sends only changes to the API server: health, stage and
// unstage at once, everything else at most every half minute.
//
// # Anchors
//
// The agent publishes an anchor before it confirms it to the volume (control's "anchor-confirm"). A
// stage reads the newest anchor from the API server itself. If the API server does not answer or
// does not know the volume, nothing is mounted: the operator creates the SealedVolume before the
// volume is used. When a volume is unmounted, no pod writes to it any more, so the anchor that is
// taken then covers everything. If it cannot be published, unmounting continues, and the agent
// retries as long as it runs.
//
// # Format state
//
// A volume is formatted once (package csi). Agent.KeepFormat writes to the status of its
// SealedVolume that formatting has begun and that it is complete, before the stage continues. For
// volumes that were formatted by an earlier version, the next report does so.
//
// # Locks
//
// Agent.mu guards the map of volumes. A volume's own mutex is held while it is checked and reported
// on, so that reports are written in order.
package nodeagent
