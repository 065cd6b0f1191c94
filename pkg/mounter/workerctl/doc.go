// Package workerctl is what a mounter, a snapshot worker, a mount server and their callers say to
// each other: names, requests and states. It holds no key; package handover carries those.
//
// # A job
//
// A snapshot worker is the process that writes one stored snapshot of a mounted volume. Its caller
// draws the identity S of the stored snapshot: 32 hexadecimal digits, as in the store's keys.
//
//	caller                    mounter                      worker                 mount server
//	secrets, store socket ──► starts the worker ─────────► confines itself
//	                          socket pair ───────────────────────────────────────► makes ses-S
//	                                                       ◄── data keys, state ── (on the pair)
//	                                                       reads secrets, runs the job
//	store  ◄───────────────────── sealed objects ───────── (on the store socket)
//	status ◄──────────────── asks ─────────────────────────
//	                          OpEnd ─────────────────────────────────────────────► keeps or drops
//
// # Local snapshots of jobs
//
// The job for S reads the local snapshot LocalName(S), "ses-" and S. Rules:
//
//  1. The mount server makes it when the job begins, durably. If it exists, it is used as it is: a
//     job that is started again with the same S continues with the same state. (If a user has
//     deleted it meanwhile, a new one is made, and Source.Created says so: what an earlier attempt
//     stored is of another state.)
//  2. While a worker reads it, it cannot be deleted, as if it were mounted. This protection ends
//     with the mount server; a worker whose snapshot is deleted then fails with errors of
//     verification and writes nothing wrong.
//  3. If the job succeeds, it is kept: it is the base of the next job, which then reads only what
//     changed. The base of this job is deleted, as the new one is durable.
//  4. If the job fails for good (FinalError), or is cancelled, it is deleted, and the base is kept.
//  5. If the job ended otherwise (a crash, no store, the volume was unmounted), both are kept: the
//     caller starts S again, or cancels it. Cancel also works when no worker runs.
//  6. Between jobs they are ordinary local snapshots: `sealvol snapshot list` shows them, and users
//     may delete them. Then the next stored snapshot is a full one.
//  7. What a crash left over is deleted by whoever knows that it is no longer needed: the caller
//     names it in Start.Drop of a later job, or cancels it.
package workerctl
