// Package control is the conversation with a mount server, the process that serves one volume: how it
// is, what it holds, grow, sync, unmount, and what the volume itself can be asked (package volumectl). `sealvol mount` and `driver
// mount` serve it, the mounter and the commands that take a mounted DIR use it. It is also how statistics are had without ever touching
// a mount that may hang.
//
// One JSON object a line, over a unix socket of mode 0600; requests of at most 16 KiB, lines of an answer of at
// most 64 KiB. Only the server's own user and root are answered (SO_PEERCRED). One request at a time on
// a connection, any number of connections up to 32. A request ends early when its caller hangs up.
//
//	→ {"op":"stats"}
//	← {"result":{"totalBytes":…}}
//	→ {"op":"scrub","args":{"bytesPerSecond":1048576}}
//	← {"progress":{"done":1,"total":9}}         any number of them
//	← {"item":{…}}                              of what comes in any number
//	← {"error":{"code":"damaged","message":"…"}}  or {"result":…}: the last line
//
// A request {"op":"request-id","args":{"id":"…"}} before others says which call (package requestid)
// they are part of; the server's log lines about them carry that. A server that does not know it
// answers with an error, as to any request that it does not know, and the next one all the same.
//
// No line carries a key. A request that needs one comes with a file descriptor to read it from (SCM_RIGHTS).
package control
