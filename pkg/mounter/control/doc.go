// Package control is the protocol between a mount server, which serves one volume, and its callers:
// status, statistics, grow, sync, unmount, and the requests of the volume itself (package
// volumectl). `sealvol mount` and `driver mount` serve it; the mounter and the commands that take a
// mounted DIR call it. It also provides statistics without touching a mount that may hang.
//
// The protocol sends one JSON object per line over a unix socket of mode 0600. Requests have at
// most 16 KiB, lines of an answer at most 64 KiB. The server answers only its own user and root
// (SO_PEERCRED). A connection has one request at a time; there may be up to 32 connections. A
// request ends early when its caller hangs up.
//
//	→ {"op":"stats"}
//	← {"result":{"totalBytes":…}}
//	→ {"op":"scrub","args":{"bytesPerSecond":1048576}}
//	← {"progress":{"done":1,"total":9}}         any number of lines
//	← {"item":{…}}                              any number of lines
//	← {"error":{"code":"damaged","message":"…"}}  or {"result":…}: the last line
//
// A request {"op":"request-id","args":{"id":"…"}} names the call (package requestid) that the next
// requests on the connection belong to; the server's log lines about them have that id. A server of
// an older version answers it with an error, as any unknown request, and still answers the next
// one.
//
// No line contains a key. A request that needs a key comes with a file descriptor to read it from
// (SCM_RIGHTS).
package control
