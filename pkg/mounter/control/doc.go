// Package control is the small conversation with a mount server, the process that serves one volume: how it
// is, what it holds, grow, sync, unmount. `sealvol mount` and `driver mount` serve it, the mounter and `sealvol grow
// DIR` use it. It is also how statistics are had without ever touching a mount that may hang.
//
// One JSON object a line, over a unix socket of mode 0600; requests of at most 4 KiB, responses of at
// most 64 KiB. Only the server's own user and root are answered (SO_PEERCRED). One request at a time on
// a connection, any number of connections up to 16.
//
//	→ {"op":"stats"}
//	← {"stats":{"totalBytes":…}}
//	← {"error":"…"}
//
// No request and no response carries a key.
package control
